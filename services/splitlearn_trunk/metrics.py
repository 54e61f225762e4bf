"""What Prometheus reads from a trunk worker.

A metric that measures what one of vLLM's measures has vLLM's name behind our prefix, and its label `model_name`. A
trunk knows sessions and frames, and no requests: metrics of those are named after them. docs/metrics.md lists all.
"""

from collections.abc import Callable, Mapping
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)

from splitlearn.engine import Engine
from splitlearn_comm import CommError
from splitlearn_comm.replicas.health import ReplicaState

SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
# vLLM's for `iteration_tokens_total`
TOKENS: Final = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
SESSIONS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
DRAINED: Final = ("ended", "handed_over", "cut_off")
"""What becomes of a session in a drain: it ends, its client is told to go on elsewhere, or its stream is cut off."""

NEXT_FAILURES: Final = ("TimedOut", "Unreachable", "Draining", "RemoteFailure")
"""How workers of the next stage usually fail."""


class TrunkMetrics:
    """One registry per process. A `WireObserver` and an `EngineObserver`; used on the event loop's thread.

    Args:
        model_name: the manifest's, which is the value of the label `model_name`.
    """

    def __init__(self, model_name: str) -> None:
        self.registry = CollectorRegistry()
        self._model_name = model_name
        self.n_steps = 0
        """Engine steps that were run since the start."""
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.frame_compute = self._histogram(
            "frame_compute_time_seconds", "Time on the device of the steps that ran a frame's rows.", SECONDS
        )
        self.frame_queue = self._histogram(
            "frame_queue_time_seconds", "Time that a frame waited for its first step.", SECONDS
        )
        self.frame_latency = self._histogram(
            "frame_latency_seconds", "Time from a frame's arrival to its reply.", SECONDS
        )
        self.rows = self._plain_counter("rows", "Rows of hidden states that were run.")
        self.iteration_time = self._histogram(
            "iteration_time_seconds", "Time on the device of one engine step.", SECONDS
        )
        # without the ending of vLLM's name, which belongs to counters
        self.iteration_tokens = Histogram(
            "splitlearn_trunk_iteration_tokens",
            "Rows in one engine step, one for each token.",
            ["model_name"],
            buckets=TOKENS,
            registry=self.registry,
        ).labels(model_name)
        self.iteration_sessions = self._histogram("iteration_sessions", "Sessions in one engine step.", SESSIONS)
        self.prefix_cache_queries = self._counter(
            "prefix_cache_queries", "Tokens in prompt blocks whose hashes clients sent to be looked up."
        )
        self.prefix_cache_hits = self._counter(
            "prefix_cache_hits", "Tokens whose rows were found in the prefix cache, and not computed again."
        )
        self.preemptions = self._counter("num_preemptions", "Sessions that were preempted for an older one.")
        self.expired_sessions = self._plain_counter(
            "sessions_expired", "Sessions that lost their KV cache because they were idle."
        )
        self.sessions = self._plain_counter("sessions", "Sessions opened since the start.")
        self.client_sessions = self._plain_counter(
            "client_sessions", "Sessions opened since the start, by the name of the client's token.", ["client"]
        )
        self.sessions_open = self._plain_gauge("num_sessions_open", "Sessions that are open, idle ones included.")
        self._add_drain_metrics()
        self.weights_verified = self._plain_gauge("weights_verified", "1 once all files match their digests, else 0.")
        self.weights_damaged = self._plain_gauge(
            "weights_damaged", "1 once a file was found not to match its digest, else 0."
        )
        self._add_chain_metrics()
        self._wire = self._plain_counter(
            "wire_bytes", "Bytes of messages exchanged with clients.", ["direction", "codec"]
        )
        self._refusals = self._plain_counter("refusals", "Frames and sessions that were refused.", ["error"])

    def _add_drain_metrics(self) -> None:
        self.draining = self._plain_gauge("draining", "1 while the worker shuts down and takes no sessions, else 0.")
        self.drained_sessions = self._plain_counter(
            "drained_sessions",
            "Sessions that were open when the worker shut down, by their end.",
            ["outcome"],
        )
        for outcome in DRAINED:
            self.drained_sessions.labels(outcome)

    def _add_chain_metrics(self) -> None:
        self._next_replicas = Gauge(
            "splitlearn_trunk_next_replicas",
            "Workers of the next stage of the chain by state; none in a worker without a next stage.",
            ["state"],
            registry=self.registry,
        )
        self._next_failures = self._plain_counter(
            "next_failures", "Sessions for which a worker of the next stage itself failed, by error.", ["error"]
        )
        # a rate does not see the first of a series
        for kind in NEXT_FAILURES:
            self._next_failures.labels(kind)
        self.next_round_trip = self._histogram(
            "next_round_trip_seconds",
            "Time from sending a frame to the next stage to its reply, without queue and compute time there.",
            SECONDS,
        )

    def watch(self, engine: Engine) -> None:
        """Adds the gauges that read the engine when Prometheus scrapes, on the exporter's thread."""
        pages = engine.pages
        self._gauge(
            "kv_cache_usage_perc",
            "Used share of the KV cache, cached prefixes included; 1 is all of it.",
            lambda: pages.used / max(1, pages.total),
        )
        self._function("num_sessions_running", "Sessions that are admitted to the KV cache.", lambda: engine.n_running)
        self._function("num_sessions_waiting", "Sessions whose rows wait for admission.", lambda: engine.n_waiting)
        self._function("kv_cache_pages_used", "Pages of the KV cache in use.", lambda: pages.used)
        self._function("kv_cache_pages_limit", "Pages of the KV cache.", lambda: pages.total)
        self._function("cached_prefixes", "Prefixes in the prefix cache.", lambda: engine.n_cached_prefixes)

    def next_replicas(self, states: Mapping[ReplicaState, int]) -> None:
        """Sets how many workers of the next stage are in each state. On the event loop's thread."""
        for state in ReplicaState:
            self._next_replicas.labels(str(state)).set(states.get(state, 0))

    def next_failed(self, error: CommError) -> None:
        """Counts a session that failed because of the next stage, and not because of one behind it."""
        self._next_failures.labels(type(error).__name__).inc()

    def step_done(self, n_sessions: int, n_rows: int, seconds: float) -> None:
        self.n_steps += 1
        self.iteration_sessions.observe(n_sessions)
        self.iteration_tokens.observe(n_rows)
        self.iteration_time.observe(seconds)

    def reused(self, n_rows: int) -> None:
        self.prefix_cache_hits.inc(n_rows)

    def preempted(self) -> None:
        self.preemptions.inc()

    def expired(self) -> None:
        self.expired_sessions.inc()

    def session_opened(self) -> None:
        self.sessions.inc()
        self.sessions_open.inc()

    def session_closed(self) -> None:
        self.sessions_open.dec()

    def refused(self, kind: str) -> None:
        self._refusals.labels(kind).inc()

    def bytes_in(self, count: int, codec: str) -> None:
        self._wire.labels("received", codec).inc(count)

    def bytes_out(self, count: int, codec: str) -> None:
        self._wire.labels("sent", codec).inc(count)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"splitlearn_trunk_{name}", text, buckets=buckets, registry=self.registry)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"splitlearn_trunk_{name}", text, ["model_name"], registry=self.registry).labels(
            self._model_name
        )

    def _gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        gauge = Gauge(f"splitlearn_trunk_{name}", text, ["model_name"], registry=self.registry)
        gauge.labels(self._model_name).set_function(value)

    def _function(self, name: str, text: str, value: Callable[[], float]) -> None:
        self._plain_gauge(name, text).set_function(value)

    def _plain_gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"splitlearn_trunk_{name}", text, registry=self.registry)

    def _plain_counter(self, name: str, text: str, labels: list[str] | None = None) -> Counter:
        return Counter(f"splitlearn_trunk_{name}", text, labels or [], registry=self.registry)
