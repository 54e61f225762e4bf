"""Everything that can go wrong between two ends, and whose fault it is. Both ends raise the same class.

CommError
├── InvalidRequest       INVALID_ARGUMENT     caller    the message breaks the protocol
│   └── InvalidTensor    INVALID_ARGUMENT     caller    wrong dtype, shape or size, or NaN
├── InvalidAddress       INVALID_ARGUMENT     operator  not HOST:PORT, or a host that does not resolve
├── BadCertificates      FAILED_PRECONDITION  operator  TLS files that cannot be used, or not the pinned certificate
├── BadToken             FAILED_PRECONDITION  operator  a token, or a file of tokens, that cannot be used
├── Unauthenticated      UNAUTHENTICATED      operator  the call had no token that the server accepts
├── SessionClosed        FAILED_PRECONDITION  caller    the session has ended; it takes no more frames
├── PositionNotReached   OUT_OF_RANGE         caller    a frame leaves a gap behind the last row
├── SessionTooLong       OUT_OF_RANGE         caller    more rows than the session was opened for, or than fit
├── FingerprintMismatch  FAILED_PRECONDITION  operator  the two ends hold different models or cuts
├── NotServed            UNIMPLEMENTED        operator  the server at this address does not offer the call
│   └── UnknownCodec     UNIMPLEMENTED        operator  one end does not know the codec that the other uses
├── PortUnavailable      UNAVAILABLE          operator  the server cannot listen at the given address
├── Draining             UNAVAILABLE          server    it is shutting down; open the session on another one
├── Overloaded           RESOURCE_EXHAUSTED   server    no capacity now; try later or elsewhere
├── RemoteFailure        INTERNAL             server    a bug or a broken machine on the other side
│   └── InvalidReply     INTERNAL             server    the reply breaks the protocol, or does not match the request
├── Unreachable          UNAVAILABLE          network   no server answers at the address, or the connection broke
│   └── NextStageFailed  UNAVAILABLE          network   the server is well, but a later stage of its chain failed
├── TimedOut             DEADLINE_EXCEEDED    network   the answer did not come in time
├── Cancelled            CANCELLED            caller    this end cancelled the call
└── Forked               FAILED_PRECONDITION  caller    the process was forked from one that had used gRPC already
"""

from __future__ import annotations

from typing import ClassVar, Final, Literal

Fault = Literal["caller", "server", "network", "operator"]


class CommError(Exception):
    """`code` is the canonical gRPC status name; `fault` says who has to act.

    Attributes:
        retry_after: seconds after which a retry makes sense; None if unknown.
    """

    code: ClassVar[str] = "UNKNOWN"
    fault: ClassVar[Fault] = "server"

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after


class InvalidRequest(CommError):
    code = "INVALID_ARGUMENT"
    fault = "caller"


class InvalidTensor(InvalidRequest):
    pass


class InvalidAddress(CommError, ValueError):
    code = "INVALID_ARGUMENT"
    fault = "operator"


class BadCertificates(CommError):
    code = "FAILED_PRECONDITION"
    fault = "operator"


class BadToken(CommError):
    code = "FAILED_PRECONDITION"
    fault = "operator"


class Unauthenticated(CommError):
    code = "UNAUTHENTICATED"
    fault = "operator"


class SessionClosed(CommError):
    code = "FAILED_PRECONDITION"
    fault = "caller"


class PositionNotReached(CommError):
    code = "OUT_OF_RANGE"
    fault = "caller"


class SessionTooLong(CommError):
    code = "OUT_OF_RANGE"
    fault = "caller"


class FingerprintMismatch(CommError):
    code = "FAILED_PRECONDITION"
    fault = "operator"


class NotServed(CommError):
    code = "UNIMPLEMENTED"
    fault = "operator"


class UnknownCodec(NotServed):
    pass


class PortUnavailable(CommError):
    code = "UNAVAILABLE"
    fault = "operator"


class Draining(CommError):
    code = "UNAVAILABLE"
    fault = "server"


class Overloaded(CommError):
    code = "RESOURCE_EXHAUSTED"
    fault = "server"


class RemoteFailure(CommError):
    code = "INTERNAL"
    fault = "server"


class InvalidReply(RemoteFailure):
    pass


class Unreachable(CommError):
    code = "UNAVAILABLE"
    fault = "network"


class NextStageFailed(Unreachable):
    pass


class TimedOut(CommError):
    code = "DEADLINE_EXCEEDED"
    fault = "network"


class Cancelled(CommError):
    code = "CANCELLED"
    fault = "caller"


class Forked(CommError):
    code = "FAILED_PRECONDITION"
    fault = "caller"


ERRORS_BY_KIND: Final[dict[str, type[CommError]]] = {
    error.__name__: error
    for error in (
        InvalidRequest,
        InvalidTensor,
        InvalidAddress,
        BadCertificates,
        BadToken,
        Unauthenticated,
        SessionClosed,
        PositionNotReached,
        SessionTooLong,
        FingerprintMismatch,
        NotServed,
        UnknownCodec,
        PortUnavailable,
        Draining,
        Overloaded,
        RemoteFailure,
        InvalidReply,
        Unreachable,
        NextStageFailed,
        TimedOut,
        Cancelled,
        Forked,
    )
}
