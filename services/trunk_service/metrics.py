"""What Prometheus reads from a trunk worker."""

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)

from splitlearn.engine import Engine

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class TrunkMetrics:
    """One registry per process; is told what passes the wire (a `WireObserver`) and what runs (an `EngineObserver`)."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.n_steps = 0
        """Steps that were run since the start."""
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.step_seconds = self._histogram("step_seconds", "Time on the device for one frame.")
        self.queue_seconds = self._histogram("queue_seconds", "Time that a frame waited for the device.")
        self.request_seconds = self._histogram("request_seconds", "Time from a frame's arrival to its reply.")
        self.rows = self._counter("rows", "Rows of hidden states that were run.")
        self.batch_seconds = self._histogram("batch_seconds", "Time on the device for one step of all sessions.")
        self.batch_rows = self._histogram("batch_rows", "Rows in one step.", COUNTS)
        self.batch_sessions = self._histogram("batch_sessions", "Sessions in one step.", COUNTS)
        self.prefix_hits = self._counter("prefix_hits", "Sessions that began with rows that were kept.")
        self.prefix_rows = self._counter("prefix_rows", "Rows that need not be sent and computed again.")
        self.preemptions = self._counter("preemptions", "Sessions that lost their pages to an older one.")
        self.expirations = self._counter("expirations", "Sessions that lost their pages because nobody used them.")
        self.sessions = self._counter("sessions", "Sessions opened since the start.")
        self.sessions_open = self._plain_gauge("sessions_open", "Sessions that hold a KV cache now.")
        self.weights_verified = self._plain_gauge(
            "weights_verified", "1 once every file was found to have its digest, else 0."
        )
        self.weights_damaged = self._plain_gauge(
            "weights_damaged", "1 once a file was found not to have its digest, else 0."
        )
        self.received_bytes = self._counter("received_bytes", "Bytes of messages received.")
        self.sent_bytes = self._counter("sent_bytes", "Bytes of messages sent.")
        self.refusals = Counter(
            "splitlearn_trunk_refusals", "Frames and sessions refused.", ["error"], registry=self.registry
        )

    def watch(self, engine: Engine) -> None:
        """Lets Prometheus read what the engine holds at the moment it asks."""
        self._gauge("sessions_waiting", "Sessions that wait for room.", lambda: engine.n_waiting)
        self._gauge("kv_pages_used", "Pages of keys and values in use, kept ones included.", lambda: engine.pages.used)
        self._gauge("kv_pages_limit", "Pages of keys and values that there are.", lambda: engine.pages.total)
        self._gauge("kept_prefixes", "Closed sessions whose first rows are kept.", lambda: engine.n_cached_prefixes)

    def step_done(self, n_sessions: int, n_rows: int, seconds: float) -> None:
        self.n_steps += 1
        self.batch_sessions.observe(n_sessions)
        self.batch_rows.observe(n_rows)
        self.batch_seconds.observe(seconds)

    def reused(self, n_rows: int) -> None:
        self.prefix_hits.inc()
        self.prefix_rows.inc(n_rows)

    def preempted(self) -> None:
        self.preemptions.inc()

    def expired(self) -> None:
        self.expirations.inc()

    def session_opened(self) -> None:
        self.sessions.inc()
        self.sessions_open.inc()

    def session_closed(self) -> None:
        self.sessions_open.dec()

    def refused(self, kind: str) -> None:
        self.refusals.labels(kind).inc()

    def bytes_in(self, n: int) -> None:
        self.received_bytes.inc(n)

    def bytes_out(self, n: int) -> None:
        self.sent_bytes.inc(n)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...] = SECONDS) -> Histogram:
        return Histogram(f"splitlearn_trunk_{name}", text, buckets=buckets, registry=self.registry)

    def _gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        self._plain_gauge(name, text).set_function(value)

    def _plain_gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"splitlearn_trunk_{name}", text, registry=self.registry)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"splitlearn_trunk_{name}", text, registry=self.registry)
