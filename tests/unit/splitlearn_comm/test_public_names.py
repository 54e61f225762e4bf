import splitlearn_comm
from splitlearn_comm import core


def test_the_public_surface_is_this() -> None:
    assert sorted(splitlearn_comm.__all__) == [
        "AsyncGRPCComputeClient",
        "AsyncGRPCComputeServer",
        "BFloat16Codec",
        "CHUNK_BYTES",
        "Cancelled",
        "ClientStream",
        "CommError",
        "CompressedTensorCodec",
        "ComputeFunction",
        "ComputeOptions",
        "ExponentialBackoff",
        "FingerprintMismatch",
        "FixedDelay",
        "Float16Codec",
        "Frame",
        "GRPCComputeClient",
        "GRPCComputeServer",
        "Int8Codec",
        "InvalidAddress",
        "InvalidRequest",
        "InvalidTensor",
        "MAX_MESSAGE_BYTES",
        "ModelComputeFunction",
        "NotServed",
        "Overloaded",
        "PortUnavailable",
        "PositionNotReached",
        "RemoteFailure",
        "Reply",
        "RetryStrategy",
        "ServiceInfo",
        "Session",
        "SessionHost",
        "SessionOpening",
        "SessionTooLong",
        "TensorCodec",
        "TimedOut",
        "UnknownCodec",
        "Unreachable",
        "WireObserver",
        "reached_after",
    ]
    assert all(hasattr(splitlearn_comm, name) for name in splitlearn_comm.__all__)


def test_the_public_surface_of_the_core_is_this() -> None:
    assert sorted(core.__all__) == [
        "BFloat16Codec",
        "CODECS",
        "CompressedTensorCodec",
        "ComputeFunction",
        "ComputeOptions",
        "DTYPES",
        "EncodedTensor",
        "Float16Codec",
        "Int8Codec",
        "ModelComputeFunction",
        "NoObserver",
        "PLAIN",
        "Session",
        "SessionHost",
        "SessionOpening",
        "TensorCodec",
        "WireObserver",
        "codec_named",
        "unpack",
    ]
    assert all(hasattr(core, name) for name in core.__all__)
