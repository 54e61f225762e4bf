"""What others implement or use without a network: compute functions, sessions, the codec, the observer."""

from splitlearn_comm.core.codec import DTYPES, EncodedTensor, TensorCodec
from splitlearn_comm.core.compute import ComputeFunction, ModelComputeFunction
from splitlearn_comm.core.observer import NoObserver, WireObserver
from splitlearn_comm.core.session import Session, SessionHost, SessionOpening

__all__ = [
    "DTYPES",
    "ComputeFunction",
    "EncodedTensor",
    "ModelComputeFunction",
    "NoObserver",
    "Session",
    "SessionHost",
    "SessionOpening",
    "TensorCodec",
    "WireObserver",
]
