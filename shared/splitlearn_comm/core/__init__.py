"""What other packages implement or use without a network: compute functions, sessions, codecs, the observer."""

from splitlearn_comm.core.codec import CompressedTensorCodec, EncodedTensor, TensorCodec, dtype_named
from splitlearn_comm.core.compute import ComputeFunction, ComputeOptions, ModelComputeFunction
from splitlearn_comm.core.elements import DTYPES, MAX_DIMENSIONS
from splitlearn_comm.core.observer import NoObserver, WireObserver
from splitlearn_comm.core.registry import CODECS, PLAIN, check, codec_named, unpack
from splitlearn_comm.core.rounding import BFloat16Codec, Float16Codec, Int8Codec
from splitlearn_comm.core.session import Begins, ChecksFrames, Session, SessionHost, SessionOpening

__all__ = [
    "CODECS",
    "DTYPES",
    "MAX_DIMENSIONS",
    "PLAIN",
    "BFloat16Codec",
    "Begins",
    "ChecksFrames",
    "CompressedTensorCodec",
    "ComputeFunction",
    "ComputeOptions",
    "EncodedTensor",
    "Float16Codec",
    "Int8Codec",
    "ModelComputeFunction",
    "NoObserver",
    "Session",
    "SessionHost",
    "SessionOpening",
    "TensorCodec",
    "WireObserver",
    "check",
    "codec_named",
    "dtype_named",
    "unpack",
]
