"""Writes one safetensors file as a stream, with one tensor in memory at a time.

Source of the format: https://github.com/huggingface/safetensors#format (8 bytes little-endian header length,
JSON header, raw row-major little-endian tensors without gaps).
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from llm_sepweight.errors import BadTensorError
from llm_sepweight.publishing import synced_file

SLICE_BYTES = 64 * 2**20
# the data starts on this boundary, so that mapped tensors are aligned for any dtype and for vector loads
_ALIGNMENT = 64
_METADATA_KEY = "__metadata__"

_FORMAT_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
    torch.float8_e8m0fnu: "F8_E8M0",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class TensorSource:
    """A tensor to be written, and how to read it.

    `name` is relative to its section. `read` is called once, when the tensor's turn comes; its result must
    have `shape`, is cast to `dtype` if needed, and is released before the next tensor is read.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    read: Callable[[], torch.Tensor]

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return math.prod(self.shape) * self.dtype.itemsize

    @classmethod
    def of(cls, name: str, tensor: torch.Tensor) -> "TensorSource":
        """The source of an existing tensor."""
        return cls(name, tensor.dtype, tuple(tensor.shape), lambda: tensor)


def file_size(sources: Sequence[TensorSource]) -> int:
    """Size in bytes of the file that `write_tensor_file` would write. Raises BadTensorError as it does."""
    return len(_header(_in_file_order(sources))) + sum(source.size for source in sources)


def write_tensor_file(
    path: Path, sources: Sequence[TensorSource], progress: Callable[[int], None] | None = None
) -> tuple[int, str]:
    """Write `sources` to `path`, sync it, and return its size in bytes and its sha256 in hex.

    The bytes depend only on names and content, not on the order of `sources`. Memory is bounded by the
    largest tensor that `read` returns, plus SLICE_BYTES if it must be cast. `progress` receives the size of
    each piece as it is written; their sum is the file's size. On failure, no file remains.

    Raises BadTensorError for a name, dtype, layout or shape that cannot be written.
    """
    ordered = _in_file_order(sources)
    digest = hashlib.sha256()
    size = 0
    with synced_file(path) as file:
        for piece in _pieces(ordered):
            file.write(piece)
            digest.update(piece)
            size += len(piece)
            if progress is not None:
                progress(len(piece))
            # a piece keeps its whole tensor alive, which must be released before the next one is read
            del piece
    return size, digest.hexdigest()


def _in_file_order(sources: Sequence[TensorSource]) -> list[TensorSource]:
    """Wide dtypes first: without gaps, every tensor then starts at a multiple of its item size."""
    names: set[str] = set()
    for source in sources:
        if source.name in names:
            raise BadTensorError(f"tensor {source.name!r} is given twice for one section")
        if source.name in ("", _METADATA_KEY):
            raise BadTensorError(f"a tensor cannot be called {source.name!r}")
        if source.dtype not in _FORMAT_DTYPES:
            raise BadTensorError(f"tensor {source.name!r} is {source.dtype}, which the format cannot store")
        names.add(source.name)
    return sorted(sources, key=lambda source: (-source.dtype.itemsize, source.name))


def _header(ordered: Sequence[TensorSource]) -> bytes:
    table = {}
    offset = 0
    for source in ordered:
        table[source.name] = {
            "dtype": _FORMAT_DTYPES[source.dtype],
            "shape": list(source.shape),
            "data_offsets": [offset, offset + source.size],
        }
        offset += source.size
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _pieces(ordered: Sequence[TensorSource]) -> Iterator[bytes | memoryview]:
    yield _header(ordered)
    for source in ordered:
        yield from _tensor_pieces(source)


def _tensor_pieces(source: TensorSource) -> Iterator[memoryview]:
    tensor = source.read().detach()
    if tuple(tensor.shape) != source.shape:
        raise BadTensorError(
            f"tensor {source.name!r} was announced as {source.shape}, but read as {tuple(tensor.shape)}"
        )
    if tensor.layout != torch.strided or tensor.is_meta:
        raise BadTensorError(f"tensor {source.name!r} is sparse or has no data: make it a dense one")
    # the same name, so that the original is released if reshape has to copy it
    tensor = tensor.reshape(-1)
    step = SLICE_BYTES // max(tensor.element_size(), source.dtype.itemsize)
    for start in range(0, tensor.numel(), step):
        before = tensor[start : start + step]
        piece = before.to(device="cpu", dtype=source.dtype).contiguous()
        if source.dtype is torch.float16 is not before.dtype and bool((piece.isinf() & before.isfinite().cpu()).any()):
            raise BadTensorError(
                f"tensor {source.name!r} has numbers beyond float16, up to {float(before.abs().max()):.3g}: store it "
                "in bfloat16"
            )
        yield piece.view(torch.uint8).numpy().data
