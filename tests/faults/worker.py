"""What the processes of the fault machine run: a trunk that can be told to lie, and a client service.

Both are the product's own composition roots. They are forked from a server process that has imported everything, so
that a killed worker is back in a second.
"""

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import structlog
import torch

import splitlearn_client.app
import splitlearn_trunk.app
from splitlearn_client.settings import ClientSettings
from splitlearn_comm import Frame, RemoteFailure, Reply, SessionOpening
from splitlearn_trunk.endpoint import TrunkServicer, TrunkSession
from splitlearn_trunk.settings import TrunkSettings

OPENED, PREFILL, DECODE = "opened", "prefill", "decode"
# a frame of this many rows, and of the rows behind the first frame, is a prompt's
_PREFILL_ROWS = 9


def run_trunk(settings: dict[str, Any], events: Connection, log_file: Path) -> None:
    """Serves until a signal. Tells `events` what its sessions do, as (event, session), and hears there how to lie."""
    _prepare(log_file)
    _Hooks(events).install()
    splitlearn_trunk.app.run(TrunkSettings(**settings))


def run_client(settings: dict[str, Any], lifeline: Connection, log_file: Path) -> None:
    """Serves until a signal, or the other end of `lifeline` is closed."""
    _prepare(log_file)
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()
    splitlearn_client.app.run(ClientSettings(**settings))


def _prepare(log_file: Path) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    with log_file.open("ab") as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))


def _end_with(lifeline: Connection) -> None:
    with contextlib.suppress(EOFError, OSError):
        lifeline.recv()
    _machine_is_gone()


def _machine_is_gone() -> None:
    """Whoever ends the machine, in whatever way, ends all its processes."""
    os._exit(1)


class _Hooks:
    """Between the wire and the engine: says what comes, and spoils the next reply when it was told to."""

    def __init__(self, events: Connection) -> None:
        self._events = events
        self._lie: Callable[[Reply], Reply] | None = None
        threading.Thread(target=self._listen, daemon=True).start()

    def install(self) -> None:
        opened, stepped = TrunkServicer.open, TrunkSession.step

        async def open_session(servicer: TrunkServicer, opening: SessionOpening) -> TrunkSession:
            session = await opened(servicer, opening)
            self._tell(OPENED, opening.session_id)
            return session

        async def step(session: TrunkSession, frame: Frame) -> Reply:
            self._tell(PREFILL if frame.row_count >= _PREFILL_ROWS else DECODE, session._name)
            reply = await stepped(session, frame)
            lie, self._lie = self._lie, None
            return reply if lie is None else lie(reply)

        TrunkServicer.open = open_session  # type: ignore[method-assign]
        TrunkSession.step = step  # type: ignore[method-assign]

    def _tell(self, event: str, session: str) -> None:
        # nobody listens any more: this process is about to end
        with contextlib.suppress(OSError):
            self._events.send((event, session))

    def _listen(self) -> None:
        while True:
            try:
                self._lie = _LIES[self._events.recv()]
            except (EOFError, OSError):
                _machine_is_gone()


def _nan(reply: Reply) -> Reply:
    rows_TD = reply.frame.rows
    return reply if rows_TD is None else Reply(Frame(reply.frame.position, torch.full_like(rows_TD, torch.nan)))


def _wrong_rows(reply: Reply) -> Reply:
    rows_TD = reply.frame.rows
    return reply if rows_TD is None else Reply(Frame(reply.frame.position, torch.cat((rows_TD, rows_TD))))


def _error(_reply: Reply) -> Reply:
    raise RemoteFailure("the fault machine made this error")


_LIES: dict[str, Callable[[Reply], Reply]] = {"nan": _nan, "wrong rows": _wrong_rows, "error": _error}
