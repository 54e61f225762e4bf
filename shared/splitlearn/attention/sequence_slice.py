"""Some rows of one session: what the engine, its runner and its stores pass to each other."""

from typing import Generic, NamedTuple, TypeVar

K = TypeVar("K")


class SequenceSlice(NamedTuple, Generic[K]):
    """Rows `start` to `start + length` of one session.

    Attributes:
        kv: the keys and values of the session's rows.
        start: position of the first row, in the session.
        length: the number of rows.
    """

    kv: K
    start: int
    length: int

    @property
    def end(self) -> int:
        """The position behind the last row."""
        return self.start + self.length
