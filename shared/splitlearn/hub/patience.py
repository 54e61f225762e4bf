"""How long to wait after a request that failed, and when to give up. Pure."""

from dataclasses import dataclass

# Answers after which the same request may succeed.
PASSING = (408, 429, 500, 502, 503, 504)
_LONGEST = 60.0


@dataclass(frozen=True)
class Patience:
    """`most` requests in a row may fail without a byte; the first wait is `first` seconds, the next twice that."""

    most: int = 8
    first: float = 0.5

    def wait(self, failures: int, retry_after: float | None = None) -> float | None:
        """Seconds before the next request; None to give up.

        Args:
            failures: requests that failed in a row without a byte; 0 after one that broke off, which goes on at once.
            retry_after: what the server asked for, of which a minute is granted at most.
        """
        if failures >= self.most:
            return None
        if retry_after is not None:
            return min(retry_after, _LONGEST)
        return min(self.first * 2 ** (failures - 1), _LONGEST) if failures else 0.0


def retry_after_of(value: str | None) -> float | None:
    """The seconds that a Retry-After header names; None if there is none, or it names a date."""
    return float(value) if value is not None and value.isascii() and value.isdecimal() and len(value) < 10 else None
