"""What Prometheus reads from a trunk worker."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class TrunkMetrics:
    """One registry per process; also counts what passes the wire (a `WireObserver`)."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.step_seconds = self._histogram("step_seconds", "Time on the device for one frame.")
        self.queue_seconds = self._histogram("queue_seconds", "Time that a frame waited for the device.")
        self.request_seconds = self._histogram("request_seconds", "Time from a frame's arrival to its reply.")
        self.rows = self._counter("rows", "Rows of hidden states that were run.")
        self.sessions = self._counter("sessions", "Sessions opened since the start.")
        self.sessions_open = Gauge(
            "splitlearn_trunk_sessions_open", "Sessions that hold a KV cache now.", registry=self.registry
        )
        self.received_bytes = self._counter("received_bytes", "Bytes of messages received.")
        self.sent_bytes = self._counter("sent_bytes", "Bytes of messages sent.")
        self.refusals = Counter(
            "splitlearn_trunk_refusals", "Frames and sessions refused.", ["error"], registry=self.registry
        )

    def session_opened(self) -> None:
        self.sessions.inc()
        self.sessions_open.inc()

    def session_closed(self) -> None:
        self.sessions_open.dec()

    def bytes_in(self, n: int) -> None:
        self.received_bytes.inc(n)

    def bytes_out(self, n: int) -> None:
        self.sent_bytes.inc(n)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(f"splitlearn_trunk_{name}", text, buckets=SECONDS, registry=self.registry)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"splitlearn_trunk_{name}", text, registry=self.registry)
