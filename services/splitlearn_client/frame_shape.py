"""What the frames of an answer look like to somebody who sees their sizes and times alone. Pure."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class FrameShape:
    """How frames that ask for next tokens are made alike.

    Attributes:
        n_rows: rows of each; missing ones are filled up. None for as many as there are guesses, and one.
        interval: seconds; an answer's frames begin at multiples of it after its first one. 0 for as soon as possible.
    """

    n_rows: int | None = None
    interval: float = 0.0

    def n_padding(self, n_guesses: int, n_free: int) -> int:
        """Rows to fill a frame up with that has so many guesses, where the session can hold so many rows more."""
        return 0 if self.n_rows is None else max(0, min(self.n_rows - 1, n_free) - n_guesses)

    def paced(self, seconds: float) -> float:
        """Seconds from a frame to the next one, where that could begin after so many."""
        return math.ceil(seconds / self.interval) * self.interval if self.interval else seconds

    def pause(self, since_first: float) -> float:
        """Seconds from now to the next frame, so many seconds after the first one."""
        return self.paced(since_first) - since_first
