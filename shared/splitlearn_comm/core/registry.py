"""The codecs that both ends know by name."""

from __future__ import annotations

from typing import Final

from torch import Tensor

from splitlearn_comm.core.codec import CompressedTensorCodec, EncodedTensor, TensorCodec, dtype_named
from splitlearn_comm.core.rounding import BFloat16Codec, Float16Codec, Int8Codec
from splitlearn_comm.errors import UnknownCodec

PLAIN: Final = TensorCodec()
CODECS: Final[dict[str, TensorCodec]] = {
    codec.name: codec for codec in (PLAIN, CompressedTensorCodec(), BFloat16Codec(), Float16Codec(), Int8Codec())
}


def codec_named(name: str) -> TensorCodec:
    """Raises UnknownCodec for a name that is not in CODECS."""
    codec = CODECS.get(name)
    if codec is None:
        raise UnknownCodec(f"unknown codec {name!r}; expected one of {', '.join(CODECS)}")
    return codec


def check(encoded: EncodedTensor) -> None:
    """Check that the sizes of `encoded` are consistent, without decoding anything.

    Raises:
        InvalidTensor, UnknownCodec: as `unpack`, as far as the sizes show it.
    """
    codec_named(encoded.codec).check(len(encoded.data), dtype_named(encoded.dtype), encoded.shape)


def unpack(encoded: EncodedTensor) -> Tensor:
    """A writable CPU tensor that shares memory with nothing, decoded by the codec that packed it.

    Raises:
        InvalidTensor: unknown dtype, impossible shape, or data that is not this codec's for this shape.
        UnknownCodec: this end does not have the codec.
    """
    return codec_named(encoded.codec).decompress(encoded.data, dtype_named(encoded.dtype), encoded.shape)
