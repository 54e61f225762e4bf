import os
import signal

import pytest

from splitlearn_cli.signals import STOPPING, stopped_by_signals


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_ends_the_body_and_raises_nothing(number: signal.Signals) -> None:
    reached = []
    with stopped_by_signals():
        reached.append("before")
        os.kill(os.getpid(), number)
        reached.append("after")

    assert reached == ["before"]


def test_signals_that_a_shell_has_ignored_work_again() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stopped_by_signals():
            os.kill(os.getpid(), signal.SIGINT)
            pytest.fail("the signal was ignored")
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_errors_pass_through_and_the_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in STOPPING]

    with pytest.raises(ValueError, match="mine"), stopped_by_signals():
        raise ValueError("mine")

    assert [signal.getsignal(number) for number in STOPPING] == before
