"""What a server implements for streams: a host that opens sessions, and sessions that take frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, Protocol, runtime_checkable

from splitlearn_comm.frames import Frame, FrameHeader, Reply, ServiceInfo
from splitlearn_comm.request_context import RequestContext

_ID_DIGITS: Final = 32


@dataclass(frozen=True, slots=True)
class SessionOpening:
    """What a client sends to open a session. `fingerprint` is opaque here; `max_length` is in rows.

    `codec`, a key of CODECS, encodes the rows in both directions. `block_hashes` identify the blocks of rows that the
    session will begin with, in order; a hash stands for its block and all blocks before it.
    `opened_at` is when the client began with it, in seconds since the epoch; 0 if it does not say.
    `tenant` is an opaque id of whose session it is; empty for a client without tenants. `passed_on_for` is an opaque id
    of the client whose tenant that is, where a stage of a chain passes its session on; otherwise empty.
    `client` is the name of the token that came with the call; empty if the server asks for none. `identity` is what the
    server knows the sender by, see `splitlearn_comm.identity`. The server sets both.
    With `asks_first` the client waits for the opening to be accepted before it sends a frame. `refused_elsewhere`:
    another server has just told it when to come again. `context` names the request that the
    session is for; it travels as gRPC metadata.
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
    passed_on_for: str = ""
    client: str = ""
    identity: str = ""
    context: RequestContext = field(default_factory=RequestContext)

    @property
    def has_reply(self) -> bool:
        """Whether the server replies to the opening itself."""
        return self.asks_first or bool(self.block_hashes)

    @property
    def owner(self) -> tuple[str, str, str]:
        """Whose session it is on the server, from the outside inwards: whatever ids a sender makes up are inside what
        it is known by, so they neither pass for those of another one nor get it more turns."""
        return self.identity, self.passed_on_for, self.tenant

    @property
    def client_id(self) -> str:
        """An opaque id of the client, for the next stage of a chain."""
        # ids that are sent have no line ends
        known = f"{self.identity}\n{self.passed_on_for}"
        return sha256(known.encode()).hexdigest()[:_ID_DIGITS]


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


@runtime_checkable
class Begins(Protocol):
    """An optional part of a session that has to ask others before it can reply to its opening."""

    async def begin(self) -> None:
        """Ask them, or raise a CommError, which ends the stream. Awaited once, if the opening has a reply; meanwhile
        the client is told to wait as it is for a frame."""
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
