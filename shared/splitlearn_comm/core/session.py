"""What a server offers for streams: a host that opens sessions, and sessions that take frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from splitlearn_comm.frames import Frame, Reply, ServiceInfo


@dataclass(frozen=True, slots=True)
class SessionOpening:
    """The client's side of an open. `fingerprint` is opaque here; `max_length` is in rows.

    `codec` names what the rows travel in, both ways: a key of CODECS.
    """

    session_id: str
    fingerprint: str
    max_length: int
    codec: str = "none"


class Session(Protocol):
    """One stream's state. The server calls it from the event loop, one step at a time."""

    async def step(self, frame: Frame) -> Reply:
        """Apply `frame` (rows [T, D] or None) and give back the rows out, [T, D].

        A CommError goes to the client in the frame's place, and the session must be as it was before.
        Any other exception ends the stream. Cancellation means that the client has gone.
        """
        ...

    async def close(self) -> None:
        """Free everything. Awaited exactly once, when the stream has ended for whatever reason."""
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
