import asyncio
import logging
import sys

import pytest
import uvloop

from splitlearn_comm import event_loop


async def kind_of_loop() -> type[asyncio.AbstractEventLoop]:
    await asyncio.sleep(0)
    return type(asyncio.get_running_loop())


def test_coroutines_run_on_uvloop_where_it_is_installed(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert event_loop.run(kind_of_loop()) is uvloop.Loop
    assert caplog.messages == []


def test_without_uvloop_asyncios_own_loop_runs_and_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)

    with caplog.at_level(logging.INFO):
        assert issubclass(event_loop.run(kind_of_loop()), asyncio.BaseEventLoop)
    assert len(caplog.messages) == 1
    assert "uvloop is not installed" in caplog.messages[0]
