"""Whether rows spend their time on the way to the trunk or in it, and so how they are encoded, and how many are sent at
a time. Plain numbers."""

import math
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Final, Literal, NamedTuple

WireCodec = Literal["none", "zlib", "bf16", "fp16", "int8", "auto"]

_TOKENS: Final = 64
_PROMPTS: Final = 8
"""Trips of each kind that count: what holds up a trip only ever makes it longer, so the shortest are near the truth."""
_MOST_TOKEN_ROWS: Final = 8
"""A next token and guesses behind it, which some drafters have for every frame."""
_LEAST_ROWS: Final = 16
"""Fewer are no prompt, whose time would say little of the link's bandwidth."""
_SPARE: Final = 1.5
"""How many times as many rows as the trunk needs to keep up with the link."""
_FIRST_BYTES: Final = 1 << 16
"""Of rows, in the first piece of a prompt over a link of which nothing is known."""
_PIECE_SECONDS: Final = (0.05, 0.5)
"""That a piece is on its way, at least and at most. Shorter ones gain nothing that anybody would notice, and what held
up a single prompt makes any link look slow. A trunk that says nothing for `--trunk-timeout` counts as gone, and it says
nothing of a piece before it has the whole of it."""


class FrameTrip(NamedTuple):
    """Of a frame to the trunk and back.

    Attributes:
        n_rows: of the frame.
        n_bytes: in both directions, as encoded.
        wire_seconds: on the way, in both directions.
        compute_seconds: in the trunk.
    """

    n_rows: int
    n_bytes: int
    wire_seconds: float
    compute_seconds: float


class LinkSpeed:
    """What frames to one replica take. Of each session it has to see the first frame, and those of next tokens.

    Attributes:
        codec_before: what `codec` returned last.
    """

    def __init__(self) -> None:
        self.codec_before = "none"
        self._tokens = deque[FrameTrip](maxlen=_TOKENS)
        self._prompts = deque[FrameTrip](maxlen=_PROMPTS)
        self._n_prompts = 0

    def learn(self, trip: FrameTrip) -> None:
        """Counts a frame that waited for no other."""
        if trip.n_rows <= _MOST_TOKEN_ROWS:
            self._tokens.append(trip)
        elif trip.n_rows >= _LEAST_ROWS:
            self._prompts.append(trip)

    def codec(self, chosen: WireCodec, row_bytes: int) -> str:
        """The codec of a new session's rows.

        Args:
            chosen: the setting; "auto" means int8 where a prompt's rows would otherwise take longer on the way than in
                the trunk, and none where nothing has been measured yet.
            row_bytes: of one row as it is.
        """
        if chosen == "auto":
            is_slow = self._wire_seconds(2 * row_bytes) > self._compute_seconds()
            chosen = "int8" if is_slow else "none"
        self.codec_before = chosen
        return chosen

    def forget(self) -> None:
        """Must be called when no reply came in time: a link that has become slow is not learned of by replies."""
        self._prompts.clear()

    @contextmanager
    def prompt(self) -> Iterator[None]:
        """Counts a prompt that is on its way, for as long as the context lasts: all share the link."""
        self._n_prompts += 1
        try:
            yield
        finally:
            self._n_prompts -= 1

    @property
    def is_known(self) -> bool:
        """Whether a piece of a prompt has shown how long rows are on their way."""
        return bool(self._prompts)

    def rows_at_once(self, most: int, row_bytes: int) -> int:
        """How many rows of a prompt to send at a time.

        The first piece is short, and none is on its way for long, or the trunk would seem gone meanwhile; but none has
        fewer than 16 rows.

        Over a link that is slower than the trunk only the last piece is computed, and sent back, when all others are
        done. So pieces are as short as the trunk can take without falling behind: a step takes what one for a token
        does, and the time of each of its rows.

        Args:
            most: as many as one step of the trunk takes; the number where the trunk is what is waited for.
            row_bytes: of one row as it is.
        """
        if not self._prompts:
            return _between(_LEAST_ROWS, _FIRST_BYTES / row_bytes, most)
        # in one direction
        on_the_wire = self._row_seconds() / 2 * max(1, self._n_prompts)
        if on_the_wire <= 0:
            return most
        shortest, longest = (_between(_LEAST_ROWS, seconds / on_the_wire, most) for seconds in _PIECE_SECONDS)
        if not self._tokens:
            return longest
        step = median(trip.compute_seconds for trip in self._tokens)
        computing = median((trip.compute_seconds - step) / trip.n_rows for trip in self._prompts)
        gained = on_the_wire - max(0.0, computing)
        return longest if gained <= 0 else _between(shortest, math.ceil(_SPARE * step / gained), longest)

    def _row_seconds(self) -> float:
        """On the way, in both directions. Before the distance is known, it counts as if the rows took it."""
        latest = self._prompts[-1]
        if not self._tokens:
            return latest.wire_seconds / latest.n_rows
        return self._wire_seconds(latest.n_bytes / latest.n_rows)

    def _wire_seconds(self, n_bytes: float) -> float:
        """What so many bytes add to a trip."""
        if not self._tokens:
            return 0.0
        token = min(self._tokens, key=lambda trip: trip.wire_seconds)
        slopes = (
            (trip.wire_seconds - token.wire_seconds) / (trip.n_bytes - token.n_bytes)
            for trip in self._prompts
            if trip.n_bytes > token.n_bytes
        )
        return n_bytes * min(slopes, default=0.0)

    def _compute_seconds(self) -> float:
        """What a row of a prompt takes in the trunk. Short pieces tell too much: a step takes time for one row too."""
        return min((trip.compute_seconds / trip.n_rows for trip in self._prompts), default=0.0)


def _between(least: int, wanted: float, most: int) -> int:
    """As many rows as wanted, within the bounds; the upper one holds."""
    return min(max(least, int(wanted)), most)
