"""How many rows of prompts a step may take without delaying the sessions that decode too much. Plain numbers."""

from dataclasses import dataclass

TILE_ROWS = 16
"""Kernels compute rows in tiles of this many; a tile that is not full costs as much as a full one."""
_ROWS_BEFORE_MEASURED = 64
_SMOOTHING = 0.3
_MOST_SLOWER = 4.0
"""A step counts as at most this many times as long as estimated: one that the system interrupted tells little."""
_SLOWEST = 8
"""How many times as long as estimated a step may take on a machine that works."""
_SHORTEST_DEADLINE_SECONDS = 10.0
_FIRST_DEADLINE_SECONDS = 60.0
"""Before there are estimates; the first steps may read the weights from a disk."""


@dataclass
class StepCostModel:
    """Learns from finished steps how long a step without prompts takes, and how much a row of a prompt adds.

    Attributes:
        max_num_batched_tokens: rows of prompts in a step when no session decodes.
        max_decode_slowdown: how many times as long as a step without prompts a step may take while sessions decode.
            It may take longer where more sessions prefill than decode: time is shared equally per session.
    """

    max_num_batched_tokens: int = 512
    max_decode_slowdown: float = 2.2
    _decode_seconds: float | None = None
    _row_seconds: float | None = None

    @property
    def decode_seconds(self) -> float:
        """How long a step without prompts takes; 0 before there was one."""
        return self._decode_seconds or 0.0

    def estimate(self, n_prefill_rows: int) -> float:
        """How long a step takes that runs rows of prompts beside the sessions that decode."""
        return self.decode_seconds + n_prefill_rows * (self._row_seconds or 0.0)

    def deadline_seconds(self, n_prefill_rows: int) -> float:
        """After how long a step with this many rows of prompts is late, as if its device hung."""
        if self._decode_seconds is None or (n_prefill_rows and self._row_seconds is None):
            return _FIRST_DEADLINE_SECONDS
        return max(_SHORTEST_DEADLINE_SECONDS, _SLOWEST * self.estimate(n_prefill_rows))

    def learn(self, n_decoding: int, n_prefill_rows: int, seconds: float) -> None:
        """Updates the estimates from one finished step."""
        if n_prefill_rows == 0:
            self._decode_seconds = _blend(self._decode_seconds, seconds)
        elif n_prefill_rows >= TILE_ROWS:
            prefill = seconds - (self._decode_seconds or 0.0) if n_decoding else seconds
            self._row_seconds = _blend(self._row_seconds, max(prefill, 0.1 * seconds) / n_prefill_rows)

    def prefill_budget(self, n_prefilling: int, n_decoding: int, seconds_left: float | None = None) -> int:
        """The largest number of rows of prompts for the next step.

        Args:
            n_prefilling: sessions that wait for their first token.
            n_decoding: sessions that wait for their next one, or are about to.
            seconds_left: seconds until the first decoding session is expected, where none is in this step. Half of it
                is used, because it is a guess; the budget is 0 if that is too short for one tile.
        """
        if not n_decoding:
            return self.max_num_batched_tokens
        if self._decode_seconds is None or self._row_seconds is None:
            return min(_ROWS_BEFORE_MEASURED, self.max_num_batched_tokens)
        if seconds_left is not None:
            return min(_whole_tiles(seconds_left / 2 / self._row_seconds), self.max_num_batched_tokens)
        seconds = max(self.max_decode_slowdown - 1, n_prefilling / n_decoding) * self._decode_seconds
        return min(max(TILE_ROWS, _whole_tiles(seconds / self._row_seconds)), self.max_num_batched_tokens)


def _whole_tiles(rows: float) -> int:
    return int(rows) // TILE_ROWS * TILE_ROWS


def _blend(before: float | None, new: float) -> float:
    return new if before is None else (1 - _SMOOTHING) * before + _SMOOTHING * min(new, _MOST_SLOWER * before)
