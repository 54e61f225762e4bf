"""What Prometheus reads from the client service.

A metric that measures what one of vLLM's measures has vLLM's name behind our prefix, its label `model_name` and its
buckets (vllm/v1/metrics/loggers.py), with finer ones below. All other metrics are ours alone. docs/metrics.md lists
all of them, and says where a meaning differs from vLLM's.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)

from splitlearn_client.report import Report
from splitlearn_comm.replicas.health import ReplicaState

# fmt: off
FIRST_TOKEN: Final = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0,
    640.0, 2560.0,
)
INTER_TOKEN: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
)
REQUEST: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0,
    50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0,
)
# from a loopback to the other side of the world, and to what only a fault explains
ROUND_TRIP: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0,
    10.0,
)
# fmt: on
TOKENS: Final = tuple(first * 10**power for power in range(6) for first in (1, 2, 5))

ABORT: Final = "abort"
"""Finished reason of a request whose caller hung up; the others are OpenAI's."""
_FINISHED_REASONS: Final = ("stop", "length", ABORT)
_DRAINED: Final = ("ended", "cut_off")


class ClientMetrics:
    """All metrics of one service, in a registry of their own. Used on the event loop's thread.

    Args:
        model_name: the model's name in the API, which is the value of the label `model_name`.
    """

    def __init__(self, model_name: str) -> None:
        self.registry = CollectorRegistry()
        self._model_name = model_name
        self._n_unfinished = 0
        self._n_waiting: Callable[[], int] = lambda: 0
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._add_request_metrics()
        self._drafts = self._counter("spec_decode_num_drafts", "Steps that ran guesses at the next tokens.")
        self._draft_tokens = self._counter("spec_decode_num_draft_tokens", "Guesses at next tokens that ran.")
        self._accepted_tokens = self._counter("spec_decode_num_accepted_tokens", "Guesses that were right.")
        self._success = Counter(
            "splitlearn_client_request_success",
            "Requests that were generated to their end, or aborted by their caller.",
            ["model_name", "finished_reason"],
            registry=self.registry,
        )
        for reason in _FINISHED_REASONS:
            self._success.labels(model_name, reason)
        self._failures = self._plain_counter("request_failures", "Requests that ended with an error.", ["code"])
        self._http = self._plain_counter(
            "http_requests",
            "HTTP requests by response status; 499 if the caller hung up first.",
            ["path", "method", "status"],
        )
        self._refusals = self._plain_counter(
            "refusals", "HTTP requests that were answered with an error, by its code.", ["code", "tenant"]
        )
        self._tenant_requests = self._plain_counter("tenant_requests", "POST requests that were let in.", ["tenant"])
        self._tenant_tokens = self._plain_counter(
            "tenant_tokens", "Tokens of prompts and of answers.", ["tenant", "kind"]
        )
        self.draining = self._plain_gauge("draining", "1 while the service shuts down and takes no requests, else 0.")
        self._drained = self._plain_counter(
            "drained_requests", "Requests that ran when the service shut down, by their end.", ["outcome"]
        )
        for outcome in _DRAINED:
            self._drained.labels(outcome)
        self.trunk_poll_errors = self._plain_counter(
            "trunk_poll_errors", "Unexpected errors of the task that polls the trunk; it goes on."
        )
        self.trunk_ready = self._plain_gauge("trunk_ready", "1 while a compatible trunk answers, else 0.")
        self._replicas = Gauge(
            "splitlearn_client_trunk_replicas", "Replicas of the trunk by state.", ["state"], registry=self.registry
        )
        self.weights_verified = self._plain_gauge(
            "weights_verified", "1 once all files of the client's parts match their digests, else 0."
        )
        self.weights_damaged = self._plain_gauge(
            "weights_damaged", "1 while a file of the client's parts is known not to match its digest, else 0."
        )
        self._wire = self._plain_counter(
            "wire_bytes", "Bytes of messages exchanged with the trunk.", ["direction", "codec"]
        )
        self.round_trip = self._histogram(
            "trunk_round_trip_seconds",
            "Time from sending a frame to its reply, without the trunk's queue and compute time.",
            ROUND_TRIP,
        )

    def replicas(self, states: Mapping[ReplicaState, int]) -> None:
        """Sets how many replicas are in each state."""
        for state in ReplicaState:
            self._replicas.labels(str(state)).set(states.get(state, 0))

    def watch(self, n_waiting: Callable[[], int]) -> None:
        """Sets what `num_requests_waiting` reads: the requests whose rows wait for admission."""
        self._n_waiting = n_waiting

    @contextmanager
    def in_progress(self) -> Iterator[None]:
        """Counts a request as running or waiting for the time of the block."""
        self._n_unfinished += 1
        try:
            yield
        finally:
            self._n_unfinished -= 1

    def request_succeeded(self, finished_reason: str, report: Report) -> None:
        """Counts a request that ended with "stop", "length" or `ABORT`."""
        self._success.labels(self._model_name, finished_reason).inc()
        self._observe(report)

    def request_failed(self, code: str, report: Report) -> None:
        """Counts a request that ended with an error. `code` is one of ours, and not a caller's text."""
        self._failures.labels(code).inc()
        self._observe(report)

    def http_request(self, path: str, method: str, status: int) -> None:
        """Counts an HTTP request; `path` is the route's own text, which callers cannot choose."""
        self._http.labels(path, method, str(status)).inc()

    def refusal(self, code: str, tenant: str) -> None:
        """Counts an HTTP request that was refused. `tenant` is a configured name, or empty."""
        self._refusals.labels(code, tenant).inc()

    def tenant_request(self, tenant: str) -> None:
        """Counts a request that has a valid key and is within its tenant's quota."""
        self._tenant_requests.labels(tenant).inc()

    def tenant_tokens(self, tenant: str, *, prompt: int = 0, generation: int = 0) -> None:
        """Counts tokens as they are computed."""
        self._tenant_tokens.labels(tenant, "prompt").inc(prompt)
        self._tenant_tokens.labels(tenant, "generation").inc(generation)

    def drained(self, *, was_cut_off: bool) -> None:
        """Counts a request that ended while the service shut down."""
        self._drained.labels("cut_off" if was_cut_off else "ended").inc()

    def wire(self, codec: str, *, sent: int, received: int) -> None:
        """Counts bytes sent to and received from the trunk by a session with this codec."""
        self._wire.labels("sent", codec).inc(sent)
        self._wire.labels("received", codec).inc(received)

    def _observe(self, report: Report) -> None:
        """Histograms are of requests that got at least one token."""
        self.prompt_tokens.inc(report.prompt_tokens)
        self.generation_tokens.inc(report.completion_tokens)
        self.prefix_cache_queries.inc(report.prompt_tokens)
        self.prefix_cache_hits.inc(report.reused_tokens)
        self._drafts.inc(report.drafts)
        self._draft_tokens.inc(report.draft_tokens)
        self._accepted_tokens.inc(report.accepted_tokens)
        self.replays.inc(report.replays)
        for failover in report.failovers:
            self._failovers.labels(failover.reason).inc()
            self._detection.observe(failover.detection_seconds)
            self._resumption.observe(failover.resumption_seconds)
        phases = report.phases
        if phases is None:
            return
        self.e2e.observe(phases.e2e)
        self.queue_time.observe(phases.queue)
        self.prefill_time.observe(phases.prefill)
        self.decode_time.observe(phases.decode)
        self.inference_time.observe(phases.prefill + phases.decode)
        self.request_prompt_tokens.observe(report.prompt_tokens)
        self.request_generation_tokens.observe(report.completion_tokens)
        if report.completion_tokens > 1:
            self.time_per_output_token.observe(phases.decode / (report.completion_tokens - 1))

    def _add_request_metrics(self) -> None:
        """Those with vLLM's names and its label."""
        histogram, counter = self._histogram, self._counter
        self.time_to_first_token = histogram(
            "time_to_first_token_seconds", "Time from a request's start to its first token.", FIRST_TOKEN
        )
        self.inter_token = histogram(
            "inter_token_latency_seconds", "Time between one token of a request and the next.", INTER_TOKEN
        )
        self.time_per_output_token = histogram(
            "request_time_per_output_token_seconds",
            "Mean time per output token of a request, after the first.",
            INTER_TOKEN,
        )
        self.e2e = histogram("e2e_request_latency_seconds", "Time from a request's start to its last token.", REQUEST)
        self.queue_time = histogram(
            "request_queue_time_seconds",
            "Time that a request's first rows waited to be run, in bottom, trunk and top together.",
            REQUEST,
        )
        self.prefill_time = histogram(
            "request_prefill_time_seconds", "Time to a request's first token, without the time in queues.", REQUEST
        )
        self.decode_time = histogram(
            "request_decode_time_seconds", "Time from a request's first token to its last.", REQUEST
        )
        self.inference_time = histogram(
            "request_inference_time_seconds", "Time of a request's prefill and decode together.", REQUEST
        )
        self.request_prompt_tokens = histogram("request_prompt_tokens", "Prompt tokens of a request.", TOKENS)
        self.request_generation_tokens = histogram("request_generation_tokens", "Output tokens of a request.", TOKENS)
        self.prompt_tokens = counter("prompt_tokens", "Prompt tokens of all requests that have ended.")
        self.generation_tokens = counter("generation_tokens", "Output tokens of all requests that have ended.")
        self.prefix_cache_queries = counter("prefix_cache_queries", "Prompt tokens looked up in the prefix caches.")
        self.prefix_cache_hits = counter(
            "prefix_cache_hits", "Prompt tokens that were cached in bottom, trunk and top, and not computed again."
        )
        self.replays = self._plain_counter(
            "num_replays", "Times that a request sent all its rows again because a part had lost them."
        )
        self._failovers = self._plain_counter(
            "failovers", "Times that a request went on with another replica of the trunk, or a new stream.", ["reason"]
        )
        self._detection = self._histogram(
            "failover_detection_seconds",
            "Time from a replica's last sign of life to the detection of its fault.",
            REQUEST,
        )
        self._resumption = self._histogram(
            "failover_resumption_seconds", "Time from a replica's fault to the request's next token.", REQUEST
        )
        self.response_store = self._plain_gauge("response_store_bytes", "Memory of the responses that are kept.")
        running = self._gauge("num_requests_running", "Requests being generated.")
        running.set_function(lambda: self._n_unfinished - self._waiting())
        waiting = self._gauge(
            "num_requests_waiting", "Requests that wait for admission to the KV cache of the client's own parts."
        )
        waiting.set_function(self._waiting)

    def _waiting(self) -> int:
        # rows of one request may wait in bottom and top at once
        return min(self._n_waiting(), self._n_unfinished)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        full_name = f"splitlearn_client_{name}"
        return Histogram(full_name, text, ["model_name"], buckets=buckets, registry=self.registry).labels(
            self._model_name
        )

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"splitlearn_client_{name}", text, ["model_name"], registry=self.registry).labels(
            self._model_name
        )

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"splitlearn_client_{name}", text, ["model_name"], registry=self.registry).labels(self._model_name)

    def _plain_counter(self, name: str, text: str, labels: list[str] | None = None) -> Counter:
        return Counter(f"splitlearn_client_{name}", text, labels or [], registry=self.registry)

    def _plain_gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"splitlearn_client_{name}", text, registry=self.registry)
