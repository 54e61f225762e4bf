"""Statistics of one client's computes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class ClientStatistics:
    """Updated on the client's event loop. Times are sums in seconds over the answered requests."""

    total_requests: int = 0
    failed_requests: int = 0
    retries: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    round_trip_seconds: float = 0.0
    queue_seconds: float = 0.0
    compute_seconds: float = 0.0

    def summary(self) -> dict[str, int | float]:
        """Counts, and averages in milliseconds. Network time is the round trip less queue and compute time; it
        includes codecs, copies and both event loops."""
        answered = max(1, self.total_requests - self.failed_requests)
        network_seconds = self.round_trip_seconds - self.queue_seconds - self.compute_seconds
        return {
            "total_requests": self.total_requests,
            "failed_requests": self.failed_requests,
            "retries": self.retries,
            "bytes_sent": self.bytes_sent,
            "bytes_received": self.bytes_received,
            "avg_total_time_ms": 1000 * self.round_trip_seconds / answered,
            "avg_network_time_ms": 1000 * max(0.0, network_seconds) / answered,
            "avg_queue_time_ms": 1000 * self.queue_seconds / answered,
            "avg_compute_time_ms": 1000 * self.compute_seconds / answered,
        }
