import asyncio
from collections.abc import Callable

import grpc
import pytest

from splitlearn_comm.errors import ERRORS_BY_KIND, CommError, InvalidTensor, Overloaded, TimedOut, Unreachable
from splitlearn_comm.retry import ExponentialBackoff, FixedDelay, is_worth_a_retry


class Failing:
    """Raises the errors one after the other, then answers."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "answer"


class Status(grpc.RpcError):
    """As calls raise it."""

    def __init__(self, code: grpc.StatusCode) -> None:
        self._code = code

    def code(self) -> grpc.StatusCode:
        return self._code


def test_delays_double_up_to_the_longest() -> None:
    strategy = ExponentialBackoff(initial_delay=1, max_delay=5, jitter=0)

    assert [strategy.delay_before(retry) for retry in (1, 2, 3, 4, 5000)] == [1, 2, 4, 5, 5]


@pytest.mark.parametrize(("chance", "delays"), [(0.0, [2, 4]), (0.5, [1.75, 3.5]), (1.0, [1.5, 3])])
def test_jitter_shortens_each_delay_by_its_part_at_most(chance: float, delays: list[float]) -> None:
    strategy = ExponentialBackoff(initial_delay=2, jitter=0.25, chance=lambda: chance)

    assert [strategy.delay_before(1), strategy.delay_before(2)] == delays


def test_the_defaults_are_the_documented_ones() -> None:
    strategy = ExponentialBackoff()

    assert (strategy.max_retries, strategy.initial_delay, strategy.max_delay, strategy.jitter) == (3, 1.0, 30.0, 0.25)
    assert len({strategy.delay_before(1) for _ in range(8)}) > 1
    assert all(0.75 <= strategy.delay_before(1) <= 1 for _ in range(8))


def test_what_may_pass_is_tried_again_after_each_delay() -> None:
    slept: list[float] = []
    fn = Failing(Unreachable("a"), TimedOut("b"), Overloaded("c"))

    answer = ExponentialBackoff(max_retries=3, jitter=0).execute(fn, sleep=slept.append)

    assert (answer, fn.calls, slept) == ("answer", 4, [1, 2, 4])


def test_the_last_attempts_error_is_raised() -> None:
    fn = Failing(*(Unreachable(str(number)) for number in range(9)))

    with pytest.raises(Unreachable, match=r"^2$"):
        FixedDelay(max_retries=2, delay=0).execute(fn)
    assert fn.calls == 3


def test_what_would_fail_again_is_raised_at_once() -> None:
    fn = Failing(InvalidTensor("no"))

    with pytest.raises(InvalidTensor):
        FixedDelay(max_retries=5, delay=0).execute(fn)
    assert fn.calls == 1


async def test_on_an_event_loop_it_waits_there() -> None:
    fn, slept = Failing(Unreachable("a"), Unreachable("b")), []

    async def attempt() -> str:
        return fn()

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await asyncio.sleep(0)

    assert await FixedDelay(max_retries=2, delay=7).execute_async(attempt, sleep=sleep) == "answer"
    assert slept == [7, 7]


RETRIED = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"}


@pytest.mark.parametrize("error", ERRORS_BY_KIND.values())
def test_of_our_errors_only_those_of_the_safe_codes_are_worth_a_retry(error: type[CommError]) -> None:
    assert is_worth_a_retry(error("m")) == (error.code in RETRIED)


@pytest.mark.parametrize("code", grpc.StatusCode)
def test_of_grpcs_own_likewise(code: grpc.StatusCode) -> None:
    assert is_worth_a_retry(Status(code)) == (code.name in RETRIED)


def test_other_exceptions_are_not_worth_a_retry() -> None:
    assert not is_worth_a_retry(ZeroDivisionError())
    assert not is_worth_a_retry(ConnectionError("not a status"))
    assert not is_worth_a_retry(grpc.RpcError())


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: ExponentialBackoff(max_retries=-1), "max_retries is at least 0, got -1"),
        (lambda: ExponentialBackoff(initial_delay=-1), "initial_delay is in seconds and at least 0"),
        (lambda: ExponentialBackoff(max_delay=-1), "max_delay is in seconds and at least 0"),
        (lambda: ExponentialBackoff(jitter=1.5), "jitter is 0 to 1, got 1.5"),
        (lambda: FixedDelay(max_retries=-1), "max_retries is at least 0"),
        (lambda: FixedDelay(1, -2), "delay is in seconds and at least 0, got -2"),
    ],
)
def test_impossible_strategies_are_refused(make: Callable[[], object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        make()
