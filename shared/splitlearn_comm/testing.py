"""For tests of code that uses this package: a real server and client on loopback, and a session host that
stands in for a trunk."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import torch
from torch import Tensor

from splitlearn_comm.client import AsyncGRPCComputeClient
from splitlearn_comm.core import ComputeFunction, ComputeOptions, SessionHost, SessionOpening, WireObserver
from splitlearn_comm.errors import FingerprintMismatch
from splitlearn_comm.frames import Frame, Reply, ServiceInfo, reached_after
from splitlearn_comm.server import AsyncGRPCComputeServer


@asynccontextmanager
async def loopback(
    *,
    session_host: SessionHost | None = None,
    compute_fn: ComputeFunction | None = None,
    compute_options: ComputeOptions | None = None,
    observer: WireObserver | None = None,
    timeout: float = 10.0,
) -> AsyncIterator[tuple[AsyncGRPCComputeServer, AsyncGRPCComputeClient]]:
    """A started server on a free port of 127.0.0.1, and its client."""
    async with (
        AsyncGRPCComputeServer(
            session_host=session_host, compute_fn=compute_fn, compute_options=compute_options, observer=observer
        ) as server,
        AsyncGRPCComputeClient(f"127.0.0.1:{server.port}", timeout=timeout) as client,
    ):
        yield server, client


class EchoSession:
    """Keeps rows by the position rule, and answers with each row multiplied by `factor`."""

    def __init__(self, opening: SessionOpening, factor: float, cached: dict[bytes, Tensor]) -> None:
        self.opening = opening
        self.factor = factor
        self._cached = cached
        # The rows that a trunk would have built its cache from, [rows reached, D]; None before the first rows.
        found_TD = next((cached[each] for each in reversed(opening.block_hashes) if each in cached), None)
        self.rows_TD: Tensor | None = None if found_TD is None else found_TD[: opening.max_length]
        self.closed = asyncio.Event()
        self.times_closed = 0

    @property
    def reached(self) -> int:
        return 0 if self.rows_TD is None else self.rows_TD.shape[0]

    async def step(self, frame: Frame) -> Reply:
        started = time.perf_counter()
        reached_after(frame, reached=self.reached, max_length=self.opening.max_length)
        kept_TD = None if self.rows_TD is None else self.rows_TD[: frame.position]
        if frame.rows is None:
            self.rows_TD = kept_TD
            return Reply(frame)
        self.rows_TD = frame.rows if kept_TD is None else torch.cat((kept_TD, frame.rows))
        answer = Frame(frame.position, frame.rows * self.factor)
        return Reply(answer, compute_seconds=time.perf_counter() - started)

    def finish(self, block_hashes: Sequence[bytes]) -> None:
        """In this host, a block is one row."""
        if self.rows_TD is not None:
            self._cached |= {each: self.rows_TD[: i + 1] for i, each in enumerate(block_hashes) if i < self.reached}

    async def close(self) -> None:
        self.times_closed += 1
        self.closed.set()


class EchoSessionHost:
    """A trunk without a model. `sessions` holds every session that it ever opened, in order."""

    def __init__(self, *, fingerprint: str = "echo", factor: float = 2.0) -> None:
        self.fingerprint = fingerprint
        self.factor = factor
        self.sessions: list[EchoSession] = []
        self.cached: dict[bytes, Tensor] = {}

    async def open(self, opening: SessionOpening) -> EchoSession:
        if opening.fingerprint != self.fingerprint:
            raise FingerprintMismatch(
                f"the server holds {self.fingerprint!r}, the client expects {opening.fingerprint!r}; "
                "give both the same model and cut"
            )
        session = EchoSession(opening, self.factor, self.cached)
        self.sessions.append(session)
        return session

    def info(self) -> ServiceInfo:
        return ServiceInfo(service_name="echo", version="1", device="cpu", fingerprint=self.fingerprint)
