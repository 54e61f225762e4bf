"""Measures what a message has beside its tensor's data, before protobuf makes an object of each field.

Protobuf copies a tensor's data at once, but takes 30 ns for every small field: 4 MiB of empty hashes hold the event
loop, and the GIL, for 70 ms. So this module first walks the fields on the way to the data, at most MOST_FIELDS of
them, and skips all others by their lengths (protobuf's encoding guide, "Message Structure").
"""

from __future__ import annotations

from typing import Final

MOST_BESIDE_DATA: Final = 2**18
"""Most bytes beside the data: the hashes for a quarter of a million tokens, and at worst 4 ms for protobuf."""
MOST_FIELDS: Final = 64
"""Most fields in the messages on the way to the data, counting these messages. A splitlearn peer sends a dozen."""
# shorter messages are not worth walking
_SHORT: Final = 2**14

# wire types
_VARINT: Final = 0
_LENGTH_DELIMITED: Final = 2
_FIXED_BYTES: Final = {1: 8, 5: 4}
_LONGEST_VARINT: Final = 10
_MOST_TAG: Final = 2**32 - 1


class NoMessageError(ValueError):
    """The bytes are not a message in protobuf's wire format."""


class TooMuchBesideDataError(ValueError):
    """There is more beside the data than allowed. `in_tensor`: the excess is in the message that has the data field."""

    def __init__(self, in_tensor: bool) -> None:
        super().__init__()
        self.in_tensor = in_tensor


def beside_data(data: bytes, path: tuple[int, ...] = ()) -> int:
    """The message's bytes outside the field at `path` (field numbers); all of them if it does not have the field.

    The field may occur several times, as may the messages around it: parsers merge them.

    Raises:
        NoMessageError, TooMuchBesideDataError
    """
    if len(data) <= _SHORT:
        return len(data)
    if not path:
        if len(data) > MOST_BESIDE_DATA:
            raise TooMuchBesideDataError(in_tensor=False)
        return len(data)
    walk = _Walk(data, path)
    walk.message(0, len(data), 0)
    return walk.n_bytes


class _Walk:
    def __init__(self, data: bytes, path: tuple[int, ...]) -> None:
        self.n_bytes = 0
        self._n_fields = 0
        self._data = data
        self._tags = [number << 3 | _LENGTH_DELIMITED for number in path]

    def message(self, at: int, end: int, depth: int) -> None:
        """Walk the message at `depth` of the path, which lies in [at, end)."""
        while at < end:
            tag, content = self._varint(at)
            content, after = self._content(tag, content)
            if after > end:
                raise NoMessageError
            is_on_path = tag == self._tags[depth]
            self._count(content - at if is_on_path else after - at, depth)
            if is_on_path and depth + 1 < len(self._tags):
                self.message(content, after, depth + 1)
            at = after

    def _count(self, n_bytes: int, depth: int) -> None:
        self._n_fields += 1
        self.n_bytes += n_bytes
        if self.n_bytes > MOST_BESIDE_DATA or self._n_fields > MOST_FIELDS:
            raise TooMuchBesideDataError(in_tensor=depth == len(self._tags) - 1)

    def _content(self, tag: int, at: int) -> tuple[int, int]:
        """Where a field's content begins and ends. None of our messages has groups, which proto3 dropped."""
        wire_type = tag & 7 if tag <= _MOST_TAG else None
        if wire_type == _LENGTH_DELIMITED:
            length, content = self._varint(at)
            return content, content + length
        if wire_type == _VARINT:
            return at, self._varint(at)[1]
        if wire_type not in _FIXED_BYTES:
            raise NoMessageError
        return at, at + _FIXED_BYTES[wire_type]

    def _varint(self, at: int) -> tuple[int, int]:
        """The number, and where it ends."""
        number = 0
        for i, byte in enumerate(self._data[at : at + _LONGEST_VARINT]):
            number |= (byte & 0x7F) << 7 * i
            if byte < 0x80:
                return number, at + i + 1
        raise NoMessageError
