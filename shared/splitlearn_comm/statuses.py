"""Converts errors to gRPC statuses and to messages, and back. Text from either end is clipped."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

import grpc

from splitlearn_comm._proto import compute_pb2 as pb2
from splitlearn_comm.errors import (
    ERRORS_BY_KIND,
    CommError,
    InvalidRequest,
    NotServed,
    RemoteFailure,
    TimedOut,
    Unauthenticated,
    Unreachable,
)
from splitlearn_comm.peer_text import clipped

KIND_KEY: Final = "splitlearn-error"
RETRY_AFTER_KEY: Final = "splitlearn-retry-after"

# Code, details, trailing metadata.
Status = tuple[grpc.StatusCode, str | None, Iterable[tuple[str, str | bytes]]]

_LONGEST_WAIT: Final = 3600.0
_CODE_NAMES: Final = {number: name.removeprefix("CODE_") for name, number in pb2.Code.items()}

# For statuses from grpc itself, a proxy or another service rather than from a splitlearn server.
_ERRORS_BY_CODE: Final[dict[str, type[CommError]]] = {
    "INVALID_ARGUMENT": InvalidRequest,
    "UNIMPLEMENTED": NotServed,
    "UNAUTHENTICATED": Unauthenticated,
    # grpc's own status for a message above the limit; a splitlearn server that lacks capacity names its error.
    "RESOURCE_EXHAUSTED": InvalidRequest,
    "UNAVAILABLE": Unreachable,
    "DEADLINE_EXCEEDED": TimedOut,
    # This end did not cancel, so the other end went away.
    "CANCELLED": Unreachable,
}


def status_of(error: CommError) -> Status:
    """The status that a server aborts with. Its trailing metadata names the class, which the code alone does not."""
    metadata = [(KIND_KEY, kind_of(error))]
    if error.retry_after is not None:
        metadata.append((RETRY_AFTER_KEY, str(error.retry_after)))
    return grpc.StatusCode[error.code], clipped(str(error)), tuple(metadata)


def error_of(status: Status, address: str) -> CommError:
    """The error that the server raised, or the meaning of grpc's own status for the caller at this end."""
    code, details, metadata = status
    told = {key: str(value) for key, value in metadata}
    if KIND_KEY not in told:
        return _error("", code.name, _with_advice(code.name, clipped(details or "no details"), address))
    error = _error(told[KIND_KEY], code.name, details or "")
    with suppress(ValueError):
        error.retry_after = _retry_after(float(told.get(RETRY_AFTER_KEY, "nan")))
    return error


def _with_advice(code: str, details: str, address: str) -> str:
    match code:
        case "UNAVAILABLE" | "CANCELLED":
            return (
                f"no answer from {address}; check that a server runs there and can be reached, and that both ends use "
                f"TLS or neither ({details})"
            )
        case "DEADLINE_EXCEEDED":
            return f"{address} did not answer in time; check the network and the server's load ({details})"
        case "RESOURCE_EXHAUSTED":
            return f"{address} does not accept messages of this size; send the rows in several frames ({details})"
        case "UNIMPLEMENTED":
            return f"the server at {address} does not serve this; check address and versions ({details})"
        case _:
            return f"{address}: {details}"


def _error(kind: str, code: str, message: str) -> CommError:
    message = clipped(message)
    known = ERRORS_BY_KIND.get(kind) or _ERRORS_BY_CODE.get(code)
    # Only the fallback class loses the code, so only its message must state it.
    return RemoteFailure(f"{code}: {message}") if known is None else known(message)


def kind_of(error: CommError) -> str:
    """The name of the nearest class that both ends know: a server may raise its own subclasses."""
    return next((known.__name__ for known in type(error).__mro__ if known.__name__ in ERRORS_BY_KIND), "")


def write_error(target: pb2.Error, error: CommError) -> None:
    target.code = pb2.Code.Value(f"CODE_{error.code}")
    target.kind = kind_of(error)
    target.message = clipped(str(error))
    target.retry_after_seconds = error.retry_after or 0.0


def read_error(source: pb2.Error) -> CommError:
    error = _error(source.kind, _CODE_NAMES.get(source.code, "UNKNOWN"), source.message)
    error.retry_after = _retry_after(source.retry_after_seconds)
    return error


def _retry_after(seconds: float) -> float | None:
    """The delay, capped at one hour; None if `seconds` is not a valid delay."""
    return min(seconds, _LONGEST_WAIT) if seconds > 0 and math.isfinite(seconds) else None
