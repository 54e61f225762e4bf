"""Headers of safetensors files: which bytes of a file are which tensor. They come from strangers, and are checked.

Source of the format: https://github.com/huggingface/safetensors#format. Pure: bytes in, numbers out.
"""

import json
import math
import reprlib
from dataclasses import dataclass
from typing import Any

from splitlearn.errors import BadCheckpoint

LENGTH_BYTES = 8
_METADATA = "__metadata__"
BITS = {
    **dict.fromkeys(("F64", "C64", "I64", "U64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E4M3FNUZ", "F8_E5M2", "F8_E5M2FNUZ", "F8_E8M0", "I8", "U8", "BOOL"), 8),
    "F4": 4,
}
"""Bits of one number, by the format's names of dtypes."""


@dataclass(frozen=True)
class Located:
    """A tensor in a file: bytes `start` up to, not including, `end`."""

    file: str
    key: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def header_bytes(first: bytes, file: str, file_size: int) -> int:
    """How many bytes the header takes, with the eight of its length, which are `first`.

    Raises:
        BadCheckpoint: more than the file has.
    """
    size = LENGTH_BYTES + int.from_bytes(first, "little")
    if len(first) != LENGTH_BYTES or size > file_size:
        raise BadCheckpoint(f"{file} is no safetensors file: its header would be longer than the file")
    return size


def tensors_in(header: bytes, file: str, file_size: int) -> list[Located]:
    """The tensors of a file, by their place in it.

    Args:
        header: the file's first bytes, as many as `header_bytes` says.

    Raises:
        BadCheckpoint: it is no header, or its tensors overlap, leave gaps, do not end with the file, or take other
            numbers of bytes than their shapes say.
    """
    try:
        table = json.loads(header[LENGTH_BYTES:], object_pairs_hook=_without_doubles)
    except (ValueError, RecursionError) as error:
        raise BadCheckpoint(f"{file} is no safetensors file: {error}") from error
    if not isinstance(table, dict):
        raise BadCheckpoint(f"{file} is no safetensors file: its header is a {type(table).__name__}")
    entries = [(key, entry) for key, entry in table.items() if key != _METADATA]
    found = sorted((_located(file, key, entry, len(header)) for key, entry in entries), key=lambda each: each.start)
    # those without bytes may lie between any two others
    at = len(header)
    for each in sorted(found, key=lambda each: (each.start, each.end)):
        if each.start != at:
            raise BadCheckpoint(f"{file}: {each.key} begins at byte {each.start}, where {at} was expected")
        at = each.end
    if at != file_size:
        raise BadCheckpoint(f"{file} has {file_size} bytes, but its tensors end at byte {at}")
    return found


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("its header has a name twice")
    return values


def _located(file: str, key: str, entry: object, data_starts: int) -> Located:
    try:
        dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]  # type: ignore[index]
    except (TypeError, LookupError, ValueError) as error:
        raise BadCheckpoint(f"{file}: {reprlib.repr(key)} has no dtype, shape and offsets") from error
    if not isinstance(shape, list) or not all(_is_count(number) for number in (*shape, start, end)):
        raise BadCheckpoint(f"{file}: {reprlib.repr(key)} has sizes or offsets that are no whole numbers")
    if not isinstance(dtype, str) or dtype not in BITS:
        raise BadCheckpoint(f"{file} holds quantised weights, of a dtype that torch does not have: {dtype!r}")
    if (end - start) * 8 != math.prod(shape) * BITS[dtype]:
        raise BadCheckpoint(f"{file}: {reprlib.repr(key)} takes {end - start} bytes, which is not its shape's number")
    return Located(file, key, dtype, tuple(shape), data_starts + start, data_starts + end)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
