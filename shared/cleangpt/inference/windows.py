"""Which part of a growing text a model reads: plain values, without torch."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass
class GrowingText:
    """The ids of one text as it grows, and its window: the last part of it, which the model reads.

    `wanted` is how many ids are still to be added. `context` is how many positions the model has, None if it has no
    limit. A window that is full is cut to the last half of the context if the text `slides`; otherwise the text ends.
    A prompt that fills the context from the start is cut in the same way.
    """

    ids: list[int]
    wanted: int
    context: int | None
    slides: bool
    start: int = 0

    def __post_init__(self) -> None:
        self._slide()

    @property
    def window(self) -> list[int]:
        """The ids that the model reads."""
        return self.ids[self.start :]

    @property
    def room(self) -> int:
        """How many ids can be added before the window is full; 0 if the text has ended."""
        if self.context is None:
            return self.wanted
        return min(self.wanted, self.context - (len(self.ids) - self.start))

    @property
    def has_slid(self) -> bool:
        """Whether the model no longer reads the start of the text."""
        return self.start > 0

    def add(self, ids: Sequence[int], ends: Sequence[int]) -> None:
        """Appends ids up to the first one of `ends`, which ends the text."""
        at = next((index for index, each in enumerate(ids) if each in ends), None)
        added = ids if at is None else ids[: at + 1]
        self.ids += added
        self.wanted = self.wanted - len(added) if at is None else 0
        self._slide()

    def _slide(self) -> None:
        is_full = self.context is not None and len(self.ids) - self.start >= self.context
        if self.slides and self.wanted and is_full and self.context is not None:
            self.start = len(self.ids) - self.context // 2
