"""What a server offers for streams: a host that opens sessions, and sessions that take frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from splitlearn_comm.frames import Frame, FrameHeader, Reply, ServiceInfo


@dataclass(frozen=True, slots=True)
class SessionOpening:
    """The client's side of an open. `fingerprint` is opaque here; `max_length` is in rows.

    `codec` names what the rows travel in, both ways: a key of CODECS. `block_hashes` are those of the blocks of
    rows that the session will begin with, the first first; a hash stands for its block and all before it.
    """

    session_id: str
    fingerprint: str
    max_length: int
    codec: str = "none"
    block_hashes: tuple[bytes, ...] = ()


class Session(Protocol):
    """One stream's state. The server calls it from the event loop, one step at a time."""

    @property
    def reached(self) -> int:
        """Rows that the session holds; after the opening those that were cached."""
        ...

    def finish(self, block_hashes: Sequence[bytes]) -> None:
        """No frame will follow; the blocks with these hashes may be cached for later sessions."""
        ...

    async def step(self, frame: Frame) -> Reply:
        """Apply `frame` (rows [T, D] or None) and give back the rows out, [T, D].

        A CommError goes to the client in the frame's place, and the session must be as it was before. RemoteFailure,
        SessionClosed and any other exception end the stream. Cancellation means that the client has gone.
        """
        ...

    async def close(self) -> None:
        """Free everything. Awaited exactly once, when the stream has ended for whatever reason."""
        ...


@runtime_checkable
class ChecksFrames(Protocol):
    """What a session has as well if it can refuse a frame before its rows are decoded."""

    def check(self, header: FrameHeader) -> None:
        """Raise the CommError that `step` would raise for any frame with this header; change nothing."""
        ...


class SessionHost(Protocol):
    """Where sessions come from."""

    async def open(self, opening: SessionOpening) -> Session:
        """Admit a session, or raise a CommError, which ends the stream.

        If it is cancelled it must free what it took: there is no session to close yet.
        """
        ...

    def info(self) -> ServiceInfo:
        """Cheap enough for the event loop."""
        ...
