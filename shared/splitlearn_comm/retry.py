"""When to retry, and how long to wait first. The strategies only compute; tenacity loops and sleeps."""

from __future__ import annotations

import asyncio
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import grpc
from tenacity import AsyncRetrying, Retrying, retry_if_exception, stop_after_attempt

from splitlearn_comm.errors import CommError

_T = TypeVar("_T")

# The gRPC status codes after which the same request may succeed. Callers that retry must tolerate that the lost attempt
# was executed.
RETRIED_CODES: Final = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"})


class RetryStrategy(ABC):
    """How often to retry and how long to wait; subclasses define the delay. Safe to share between threads."""

    max_retries: int

    @abstractmethod
    def delay_before(self, retry: int) -> float:
        """Seconds to wait before retry number `retry`, counted from 1."""

    def execute(self, fn: Callable[[], _T], *, sleep: Callable[[float], None] = time.sleep) -> _T:
        """Call `fn` and return its result; call it again after a transient failure.

        Raises:
            Exception: that of the last attempt, or immediately one that no retry would cure.
        """
        return Retrying(sleep=sleep, **self._rules())(fn)

    async def execute_async(
        self, fn: Callable[[], Awaitable[_T]], *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> _T:
        """Like `execute`, on an event loop."""
        return await AsyncRetrying(sleep=sleep, **self._rules())(fn)

    def _rules(self) -> dict[str, Any]:
        return {
            "retry": retry_if_exception(is_worth_a_retry),
            "stop": stop_after_attempt(self.max_retries + 1),
            "wait": lambda state: self.delay_before(state.attempt_number),
            "reraise": True,
        }


@dataclass(frozen=True)
class ExponentialBackoff(RetryStrategy):
    """Doubles the delay each time.

    Attributes:
        initial_delay: seconds before the first retry.
        max_delay: longest delay in seconds.
        jitter: the random fraction of each delay, 0 to 1, so that clients that failed together do not come back
            together. It only shortens delays.
        chance: returns a number from 0 to 1 on each call.
    """

    max_retries: int = 3
    initial_delay: float = 1.0
    max_delay: float = 30.0
    jitter: float = 0.25
    chance: Callable[[], float] = random.random

    def __post_init__(self) -> None:
        _check(self.max_retries, initial_delay=self.initial_delay, max_delay=self.max_delay)
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter is 0 to 1, got {self.jitter}")

    def delay_before(self, retry: int) -> float:
        # Past 2**64 every delay has reached any maximum, and a float would overflow.
        full = min(self.max_delay, self.initial_delay * 2.0 ** min(retry - 1, 64))
        return full * (1 - self.jitter * self.chance())


@dataclass(frozen=True)
class FixedDelay(RetryStrategy):
    """Waits `delay` seconds each time."""

    max_retries: int = 3
    delay: float = 1.0

    def __post_init__(self) -> None:
        _check(self.max_retries, delay=self.delay)

    def delay_before(self, retry: int) -> float:
        return self.delay


def is_worth_a_retry(error: BaseException) -> bool:
    """Whether the error, ours or grpc's own, has one of RETRIED_CODES."""
    if isinstance(error, CommError):
        return error.code in RETRIED_CODES
    # grpc.RpcError itself defines no code, but the errors that calls raise have one.
    code = getattr(error, "code", None) if isinstance(error, grpc.RpcError) else None
    return callable(code) and code().name in RETRIED_CODES


def _check(max_retries: int, **seconds: float) -> None:
    if max_retries < 0:
        raise ValueError(f"max_retries is at least 0, got {max_retries}")
    for name, value in seconds.items():
        if value < 0:
            raise ValueError(f"{name} is in seconds and at least 0, got {value}")
