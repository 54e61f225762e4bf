"""What Prometheus reads from the client service.

What vLLM counts too has vLLM's name behind our prefix: the three histograms, `prompt_tokens`, `generation_tokens` and
`num_requests_running`. The histograms have vLLM's buckets (vllm/v1/metrics/loggers.py) and finer ones below. Other are
the labels (one model, one engine: there are none) and what stands for vLLM's `request_success`: `request_finished`
counts failures as well. All else is ours alone.
"""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)

FIRST_TOKEN = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
    20.0,
    40.0,
    80.0,
    160.0,
    640.0,
    2560.0,
)
INTER_TOKEN = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.075,
    0.1,
    0.15,
    0.2,
    0.3,
    0.4,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
    20.0,
    40.0,
    80.0,
)
REQUEST = (
    0.05,
    0.1,
    0.3,
    0.5,
    0.8,
    1.0,
    1.5,
    2.0,
    2.5,
    5.0,
    10.0,
    15.0,
    20.0,
    30.0,
    40.0,
    50.0,
    60.0,
    120.0,
    240.0,
    480.0,
    960.0,
    1920.0,
    7680.0,
)


class ClientMetrics:
    """One registry per process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.time_to_first_token = self._histogram(
            "time_to_first_token_seconds", "From the request to its first token.", FIRST_TOKEN
        )
        self.inter_token = self._histogram(
            "inter_token_latency_seconds", "Between one token and the next.", INTER_TOKEN
        )
        self.request = self._histogram("e2e_request_latency_seconds", "From the request to its last token.", REQUEST)
        self.prompt_tokens = self._counter("prompt_tokens", "Prompt tokens of finished requests.")
        self.generation_tokens = self._counter("generation_tokens", "Tokens generated.")
        self.finished = self._counter("request_finished", "Requests by how they ended.", ["reason"])
        self._requests = self._counter(
            "http_requests",
            "Requests over HTTP by how they were answered; 499 if the caller hung up first.",
            ["path", "method", "status"],
        )
        self.watch_failures = self._counter("watch_failures", "Faults of the watch over the trunk; it goes on.")
        self.running = self._gauge("num_requests_running", "Requests being generated now.")
        self.trunk_ready = self._gauge("trunk_ready", "1 while a trunk that fits answers.")
        self.weights_verified = self._gauge(
            "weights_verified", "1 once every own file was found to have its digest, else 0."
        )
        self.weights_damaged = self._gauge(
            "weights_damaged", "1 while an own file is known not to have its digest, else 0."
        )
        self._wire = self._counter("wire_bytes", "Bytes exchanged with the trunk.", ["direction"])

    def request_answered(self, path: str, method: str, status: int) -> None:
        """Counts a request; `path` is the route's own text, which callers cannot choose."""
        self._requests.labels(path, method, str(status)).inc()

    def wire(self, *, sent: int, received: int) -> None:
        """Counts bytes that have gone to and come from the trunk."""
        self._wire.labels("sent").inc(sent)
        self._wire.labels("received").inc(received)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"splitlearn_client_{name}", text, buckets=buckets, registry=self.registry)

    def _counter(self, name: str, text: str, labels: list[str] | None = None) -> Counter:
        return Counter(f"splitlearn_client_{name}", text, labels or [], registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"splitlearn_client_{name}", text, registry=self.registry)
