"""The header of a GGUF file: metadata, and where each tensor is. Nothing in it is believed before it is compared with
the size of the file.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splitlearn.checkpoints.gguf.types import TYPE_NAMES, TensorType, tensor_type
from splitlearn.checkpoints.quantized import unsupported
from splitlearn.errors import BadCheckpoint

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_LONGEST_TEXT = 2**20
_LONGEST_NAME = 2**10
_LONGEST_ARRAY = 2**12
"""Longer arrays, and all of texts, are passed over: those are vocabularies."""
_MOST_AXES = 4
_ALIGNMENT = "general.alignment"


@dataclass(frozen=True)
class GgufTensor:
    """Where a tensor is in the file: `shape` in torch's order, `offset` and `size` in bytes from the file's begin."""

    name: str
    shape: tuple[int, ...]
    kind: TensorType
    offset: int
    size: int


@dataclass(frozen=True)
class GgufHeader:
    """Metadata hold numbers, texts and short arrays of numbers."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]


class _Cursor:
    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self._data, self.position = path, data, 0
        self.end = len(data)

    @property
    def left(self) -> int:
        return self.end - self.position

    def skip(self, size: int) -> int:
        """Where the bytes begin that are skipped."""
        if size > self.left:
            raise self.fail("ends inside its header")
        self.position += size
        return self.position - size

    def take(self, form: str) -> tuple[Any, ...]:
        whole = f"<{form}"
        return struct.unpack_from(whole, self._data, self.skip(struct.calcsize(whole)))

    def text(self, longest: int) -> str:
        (length,) = self.take("Q")
        if length > longest:
            raise self.fail(f"has a text of {length} bytes in its header")
        start = self.skip(length)
        try:
            return self._data[start : start + length].decode()
        except UnicodeDecodeError as error:
            raise self.fail("has a text in its header that is not UTF-8") from error

    def count(self, number: int, least_bytes: int, what: str) -> int:
        """The number itself, if so many things of at least so many bytes can follow."""
        if number * least_bytes > self.left:
            raise self.fail(f"claims {number} {what}, more than it has room for")
        return number

    def fail(self, reason: str) -> BadCheckpoint:
        return BadCheckpoint(f"{self.path} {reason}; download it again")


def read_header(path: Path) -> GgufHeader:
    """Reads the header of a file; costs time and memory in proportion to what is there, not to what it claims.

    Raises:
        UnsupportedModel: tensors are stored in a type that is not covered, with its name.
        BadCheckpoint: it is no GGUF file, is truncated, or contradicts itself.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _parse(_Cursor(path, data))
    except ValueError as error:
        # an empty file cannot be mapped
        raise BadCheckpoint(f"{path} is empty; download it again") from error
    except OSError as error:
        raise BadCheckpoint(f"{path} cannot be read: {error.strerror}") from error


def _parse(cursor: _Cursor) -> GgufHeader:
    magic, version = cursor.take("4sI")
    if magic != _MAGIC:
        raise cursor.fail("is not a GGUF file")
    if version not in _VERSIONS:
        raise cursor.fail(f"is of GGUF's version {version}; {_VERSIONS[0]} and {_VERSIONS[1]}, little-endian, are read")
    n_tensors, n_values = cursor.take("QQ")
    metadata: dict[str, Any] = {}
    for _ in range(cursor.count(n_values, 12, "metadata")):
        key = cursor.text(_LONGEST_NAME)
        if key in metadata:
            raise cursor.fail(f"has {key} twice")
        (kind,) = cursor.take("I")
        metadata[key] = _value(cursor, kind, key)
    outlines = [_outline(cursor) for _ in range(cursor.count(n_tensors, 24, "tensors"))]
    alignment = metadata.get(_ALIGNMENT, 32)
    if not isinstance(alignment, int) or alignment <= 0 or alignment % 8:
        raise cursor.fail(f"has {alignment!r} for {_ALIGNMENT}")
    begin = -(-cursor.position // alignment) * alignment
    tensors: dict[str, GgufTensor] = {}
    for name, shape, kind, offset in outlines:
        if name in tensors:
            raise cursor.fail(f"has the tensor {name} twice")
        tensors[name] = _placed(cursor, name, shape, kind, begin + offset)
    return GgufHeader(cursor.path, metadata, tensors)


def _value(cursor: _Cursor, kind: int, key: str) -> Any:
    if kind in _SCALARS:
        return cursor.take(_SCALARS[kind])[0]
    if kind == _STRING:
        return cursor.text(_LONGEST_TEXT)
    if kind != _ARRAY:
        raise cursor.fail(f"has a value of the unknown type {kind} for {key}")
    inner, length = cursor.take("IQ")
    if inner in _SCALARS:
        cursor.count(length, struct.calcsize(_SCALARS[inner]), f"values of {key}")
        if length <= _LONGEST_ARRAY:
            return cursor.take(f"{length}{_SCALARS[inner]}")
        cursor.skip(length * struct.calcsize(_SCALARS[inner]))
        return None
    if inner != _STRING:
        raise cursor.fail(f"has an array of the unknown type {inner} for {key}")
    for _ in range(cursor.count(length, 8, f"texts of {key}")):
        cursor.skip(cursor.take("Q")[0])
    return None


def _outline(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    name = cursor.text(_LONGEST_NAME)
    (axes,) = cursor.take("I")
    if not 0 < axes <= _MOST_AXES:
        raise cursor.fail(f"has {axes} axes for the tensor {name}")
    sizes = cursor.take(f"{axes}Q")
    kind, offset = cursor.take("IQ")
    return name, tuple(reversed(sizes)), kind, offset


def _placed(cursor: _Cursor, name: str, shape: tuple[int, ...], kind: int, offset: int) -> GgufTensor:
    found = tensor_type(kind)
    if found is None:
        raise unsupported(str(cursor.path), f"GGUF, {name} is of the type {TYPE_NAMES.get(kind, kind)}")
    if 0 in shape or shape[-1] % found.values:
        raise cursor.fail(f"has the shape {list(shape)} for {name}, which blocks of {found.values} do not divide")
    size = math.prod(shape) // found.values * found.size
    if offset + size > cursor.end:
        raise cursor.fail(f"is truncated: {name} would end at byte {offset + size}")
    return GgufTensor(name, shape, found, offset, size)
