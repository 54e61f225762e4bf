"""Tensors over gRPC: sessions of rows at positions, and stateless calls. It knows nothing of layers or tokens."""

import os

# What grpc's core prints to stderr is noise (a line for every server that stops), or is raised here as an error that
# says what to do. Set the variable to see it.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
# Otherwise grpc's core restarts its threads in every process forked from this one, and they crash there (seen with
# grpcio 1.85). A forked process cannot use grpc.aio either way; see forks.py.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

from splitlearn_comm.access import Access
from splitlearn_comm.admission import ServerLimits
from splitlearn_comm.client import AsyncGRPCComputeClient
from splitlearn_comm.client_stream import ClientStream
from splitlearn_comm.core import (
    BFloat16Codec,
    CompressedTensorCodec,
    ComputeFunction,
    ComputeOptions,
    Float16Codec,
    Int8Codec,
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
    Draining,
    FingerprintMismatch,
    Forked,
    InvalidAddress,
    InvalidReply,
    InvalidRequest,
    InvalidTensor,
    NextStageFailed,
    NotServed,
    Overloaded,
    PortUnavailable,
    PositionNotReached,
    RemoteFailure,
    SessionClosed,
    SessionTooLong,
    TimedOut,
    Unauthenticated,
    UnknownCodec,
    Unreachable,
)
from splitlearn_comm.frames import Frame, FrameHeader, Reply, ServiceInfo, reached_after
from splitlearn_comm.health_server import HealthServer, HealthState
from splitlearn_comm.load import ServiceLoad
from splitlearn_comm.options import CHUNK_BYTES, MAX_MESSAGE_BYTES, SESSION_MESSAGE_BYTES
from splitlearn_comm.request_context import RequestContext
from splitlearn_comm.retry import ExponentialBackoff, FixedDelay, RetryStrategy
from splitlearn_comm.server import AsyncGRPCComputeServer
from splitlearn_comm.sync import GRPCComputeClient, GRPCComputeServer
from splitlearn_comm.wire import MAX_BLOCK_HASHES

__all__ = [
    "CHUNK_BYTES",
    "MAX_BLOCK_HASHES",
    "MAX_MESSAGE_BYTES",
    "SESSION_MESSAGE_BYTES",
    "Access",
    "AsyncGRPCComputeClient",
    "AsyncGRPCComputeServer",
    "BFloat16Codec",
    "Cancelled",
    "ClientStream",
    "CommError",
    "CompressedTensorCodec",
    "ComputeFunction",
    "ComputeOptions",
    "Draining",
    "ExponentialBackoff",
    "FingerprintMismatch",
    "FixedDelay",
    "Float16Codec",
    "Forked",
    "Frame",
    "FrameHeader",
    "GRPCComputeClient",
    "GRPCComputeServer",
    "HealthServer",
    "HealthState",
    "Int8Codec",
    "InvalidAddress",
    "InvalidReply",
    "InvalidRequest",
    "InvalidTensor",
    "ModelComputeFunction",
    "NextStageFailed",
    "NotServed",
    "Overloaded",
    "PortUnavailable",
    "PositionNotReached",
    "RemoteFailure",
    "Reply",
    "RequestContext",
    "RetryStrategy",
    "ServerLimits",
    "ServiceInfo",
    "ServiceLoad",
    "Session",
    "SessionClosed",
    "SessionHost",
    "SessionOpening",
    "SessionTooLong",
    "TensorCodec",
    "TimedOut",
    "Unauthenticated",
    "UnknownCodec",
    "Unreachable",
    "WireObserver",
    "reached_after",
]
