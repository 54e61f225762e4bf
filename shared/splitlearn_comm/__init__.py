"""Tensors over gRPC: sessions of rows at positions, and stateless calls. Knows nothing of layers or tokens."""

from splitlearn_comm.client import AsyncGRPCComputeClient
from splitlearn_comm.client_stream import ClientStream
from splitlearn_comm.core import (
    ComputeFunction,
    ModelComputeFunction,
    Session,
    SessionHost,
    SessionOpening,
    TensorCodec,
    WireObserver,
)
from splitlearn_comm.errors import (
    Cancelled,
    CommError,
    FingerprintMismatch,
    InvalidRequest,
    InvalidTensor,
    NotServed,
    Overloaded,
    PortUnavailable,
    PositionNotReached,
    RemoteFailure,
    SessionTooLong,
    TimedOut,
    Unreachable,
)
from splitlearn_comm.frames import Frame, Reply, ServiceInfo, reached_after
from splitlearn_comm.options import CHUNK_BYTES, MAX_MESSAGE_BYTES
from splitlearn_comm.server import AsyncGRPCComputeServer

__all__ = [
    "CHUNK_BYTES",
    "MAX_MESSAGE_BYTES",
    "AsyncGRPCComputeClient",
    "AsyncGRPCComputeServer",
    "Cancelled",
    "ClientStream",
    "CommError",
    "ComputeFunction",
    "FingerprintMismatch",
    "Frame",
    "InvalidRequest",
    "InvalidTensor",
    "ModelComputeFunction",
    "NotServed",
    "Overloaded",
    "PortUnavailable",
    "PositionNotReached",
    "RemoteFailure",
    "Reply",
    "ServiceInfo",
    "Session",
    "SessionHost",
    "SessionOpening",
    "SessionTooLong",
    "TensorCodec",
    "TimedOut",
    "Unreachable",
    "WireObserver",
    "reached_after",
]
