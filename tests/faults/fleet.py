"""The replicas: one process and one link each, and what may be done to them."""

import asyncio
import multiprocessing
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any
from unittest.mock import patch

from faults import worker
from support.faulty_link import FaultyLink, faulty_link
from support.running_split import free_port, until

START_SECONDS = 60.0
STOP_SECONDS = 30.0
_FORKSERVER = multiprocessing.get_context("forkserver")
_FORKSERVER.set_forkserver_preload(["faults.preload"])
_TESTS = str(Path(__file__).parents[1])


def _start_forkserver() -> None:
    """It must find what it is to import before it forks, and before Python 3.13 it looks only where a fresh interpreter
    does. Without that every worker would import torch for itself."""
    path = os.pathsep.join(filter(None, (_TESTS, os.environ.get("PYTHONPATH"))))
    with patch.dict(os.environ, PYTHONPATH=path):
        forkserver.ensure_running()


class TrunkReplica:
    """One worker behind its link.

    Attributes:
        stage: of the chain, from 0.
        sessions: what each did last, as the worker tells.
        opened: sessions that were opened here. Both since `forget`.
        is_whole: False while a fault is being made good.
    """

    def __init__(self, name: str, stage: int, link: FaultyLink, port: int, log_file: Path, **settings: Any) -> None:
        self.name = name
        self.stage = stage
        self.link = link
        self.sessions: dict[str, str] = {}
        self.opened: set[str] = set()
        self.is_whole = True
        self._port = port
        self._log_file = log_file
        self._settings = settings
        self._process: ForkServerProcess | None = None
        self._events: Connection | None = None

    def __repr__(self) -> str:
        return f"<TrunkReplica {self.name}>"

    def start(self) -> None:
        """Starts the process; it serves some time later."""
        self._events, far = _FORKSERVER.Pipe()
        settings = {
            "port": self._port,
            "metrics_port": 0,
            "threads": 1,
            "kv_cache_memory_bytes": 2**26,
            "shutdown_timeout": 0.2,
            **self._settings,
        }
        self._process = _FORKSERVER.Process(target=worker.run_trunk, args=(settings, far, self._log_file))
        self._process.start()
        far.close()
        asyncio.get_running_loop().add_reader(self._events.fileno(), self._hear, self._events)

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def lie(self, how: str) -> None:
        """Spoils the worker's next reply."""
        assert self._events is not None
        self._events.send(how)

    async def ended(self) -> int | None:
        """Waits for the end of the process; returns its exit code."""
        assert self._process is not None
        process = self._process
        await until(lambda: process.exitcode is not None, within=STOP_SECONDS)
        if self._events is not None:
            self._forget(self._events)
        return process.exitcode

    async def serves(self) -> None:
        """Waits until the port is open, which it is once the layers are loaded."""
        deadline = asyncio.get_running_loop().time() + START_SECONDS
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError:
                if asyncio.get_running_loop().time() > deadline:
                    raise TimeoutError(f"{self} does not serve; see its log") from None
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return

    def forget(self) -> None:
        """What sessions did before is of no interest any more."""
        self.sessions.clear()
        self.opened.clear()

    async def close(self) -> None:
        if self._process is not None and self._process.exitcode is None:
            self.signal(signal.SIGKILL)
            await self.ended()

    def _hear(self, events: Connection) -> None:
        try:
            while events.poll():
                event, session = events.recv()
                self.sessions[session] = event
                if event == worker.OPENED:
                    self.opened.add(session)
        except (EOFError, OSError):
            self._forget(events)

    def _forget(self, events: Connection) -> None:
        if events is self._events:
            asyncio.get_running_loop().remove_reader(events.fileno())
            events.close()
            self._events = None
        self.forget()


@asynccontextmanager
async def fleet(
    weights: Path, folder: Path, stages: Sequence[str], n_replicas: int, **settings: Any
) -> AsyncIterator[list[TrunkReplica]]:
    """Replicas that serve: so many for each range of layers, those of one stage connected with all of the next."""
    _start_forkserver()
    async with AsyncExitStack() as stack:
        replicas: list[TrunkReplica] = []
        beyond: str | None = None
        for stage, layers in reversed(list(enumerate(stages))):
            found = []
            for number in range(n_replicas):
                port, name = free_port(), f"trunk-{stage}-{number}"
                link = await stack.enter_async_context(faulty_link(port))
                own = {"weights": weights, "layers": layers, "next": beyond, **settings}
                replica = TrunkReplica(name, stage, link, port, folder / f"{name}.log", **own)
                stack.push_async_callback(replica.close)
                replica.start()
                found.append(replica)
            replicas += found
            beyond = ",".join(replica.link.address for replica in found)
        for replica in replicas:
            await replica.serves()
        yield replicas


@asynccontextmanager
async def client_service(weights: Path, folder: Path, trunk: str, **settings: Any) -> AsyncIterator[str]:
    """A client service as a process of its own; yields its URL. It may not be ready yet."""
    port = free_port()
    settings = {"weights": weights, "trunk": trunk, "port": port, "served_model_name": "tiny", "threads": 1, **settings}
    lifeline, far = _FORKSERVER.Pipe()
    process = _FORKSERVER.Process(target=worker.run_client, args=(settings, far, folder / "client.log"))
    process.start()
    far.close()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await until(lambda: process.exitcode is not None, within=STOP_SECONDS)
        lifeline.close()
