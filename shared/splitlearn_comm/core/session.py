"""What a server implements for streams: a host that opens sessions, and sessions that take frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Protocol, runtime_checkable

from splitlearn_comm.frames import Frame, FrameHeader, Reply, ServiceInfo

_OWNER_DIGITS: Final = 32


@dataclass(frozen=True, slots=True)
class SessionOpening:
    """What a client sends to open a session. `fingerprint` is opaque here; `max_length` is in rows.

    `codec`, a key of CODECS, encodes the rows in both directions. `block_hashes` identify the blocks of rows that the
    session will begin with, in order; a hash stands for its block and all blocks before it.
    `opened_at` is when the client began with it, in seconds since the epoch; 0 if it does not say.
    `tenant` is an opaque id of whose session it is; empty for a client without tenants.
    `client` is the name of the token that came with the call; empty if the server asks for none. The server sets it.
    With `asks_first` the client waits for the opening to be accepted before it sends a frame. `refused_elsewhere`:
    another server has just told it when to come again.
    """

    session_id: str
    fingerprint: str
    max_length: int
    codec: str = "none"
    block_hashes: tuple[bytes, ...] = ()
    opened_at: float = 0.0
    tenant: str = ""
    asks_first: bool = False
    refused_elsewhere: bool = False
    client: str = ""

    @property
    def has_reply(self) -> bool:
        """Whether the server replies to the opening itself."""
        return self.asks_first or bool(self.block_hashes)

    @property
    def owner(self) -> str:
        """Whose session it is on the server: an opaque id for this tenant of this client. Ids that clients send
        cannot pass for those of another client."""
        if not self.client:
            return self.tenant
        return sha256(f"{self.client} {self.tenant}".encode()).hexdigest()[:_OWNER_DIGITS]


class Session(Protocol):
    """The state of one stream. The server calls it from the event loop, one step at a time."""

    @property
    def reached(self) -> int:
        """The number of rows that the session holds; right after the opening, the number of cached rows."""
        ...

    def finish(self, block_hashes: Sequence[bytes]) -> None:
        """No frame will follow; the blocks with these hashes may be cached for later sessions."""
        ...

    async def step(self, frame: Frame) -> Reply:
        """Apply `frame` (rows [T, D] or None) and return the output rows, [T, D].

        A CommError goes to the client in place of the reply, and must leave the session unchanged. RemoteFailure,
        SessionClosed, Draining and any other exception end the stream. Cancellation means that the client is gone.
        """
        ...

    async def close(self) -> None:
        """Free everything. Awaited exactly once, when the stream has ended for whatever reason."""
        ...


@runtime_checkable
class ChecksFrames(Protocol):
    """An optional part of a session that can refuse a frame before its rows are decoded."""

    def check(self, header: FrameHeader) -> None:
        """Raise the CommError that `step` would raise for any frame with this header; change nothing."""
        ...


class SessionHost(Protocol):
    """Opens sessions."""

    async def open(self, opening: SessionOpening) -> Session:
        """Admit a session, or raise a CommError, which ends the stream.

        If it is cancelled, it must free what it allocated, because there is no session to close yet.
        """
        ...

    def info(self) -> ServiceInfo:
        """Facts about the service. Must be cheap enough for the event loop."""
        ...
