"""How many rows of prompts may ride along in a step without making those who decode wait too long. Plain numbers."""

from dataclasses import dataclass

# Rows in which kernels take them: what is left over of such a block costs as much as a whole one.
BLOCK_ROWS = 16
_UNKNOWN_ROWS = 64
_MEMORY = 0.3


@dataclass
class Pace:
    """Learns from finished steps what a step takes without prompts, and what a row of a prompt adds.

    Attributes:
        most_rows: of prompts in a step when nobody decodes.
        slowdown: how many times as long as without prompts a step may take while somebody decodes. It may take longer
            where more sessions wait for their first token than for their next one: time is shared by heads.
    """

    most_rows: int = 512
    slowdown: float = 2.2
    _step_seconds: float | None = None
    _row_seconds: float | None = None

    @property
    def step_seconds(self) -> float:
        """What a step without prompts takes; 0 before there was one."""
        return self._step_seconds or 0.0

    def seconds(self, n_prompt_rows: int) -> float:
        """What a step takes with rows of prompts beside those who decode."""
        return self.step_seconds + n_prompt_rows * (self._row_seconds or 0.0)

    def learn(self, n_decoding: int, n_prompt_rows: int, seconds: float) -> None:
        """Takes in one finished step."""
        if n_prompt_rows == 0:
            self._step_seconds = _blend(self._step_seconds, seconds)
        elif n_prompt_rows >= BLOCK_ROWS:
            own = seconds - (self._step_seconds or 0.0) if n_decoding else seconds
            self._row_seconds = _blend(self._row_seconds, max(own, 0.1 * seconds) / n_prompt_rows)

    def prompt_rows(self, n_prompts: int, n_decoding: int, seconds_left: float | None = None) -> int:
        """The most rows of prompts for the next step.

        Args:
            n_prompts: sessions that wait for their first token.
            n_decoding: sessions that wait for their next one, or are about to.
            seconds_left: until the first of these comes, where none of them is in this step; 0 rows if they are too
                few. Half of it is used, as it is a guess.
        """
        if not n_decoding:
            return self.most_rows
        if self._step_seconds is None or self._row_seconds is None:
            return min(_UNKNOWN_ROWS, self.most_rows)
        if seconds_left is not None:
            return min(_whole_blocks(seconds_left / 2 / self._row_seconds), self.most_rows)
        seconds = max(self.slowdown - 1, n_prompts / n_decoding) * self._step_seconds
        return min(max(BLOCK_ROWS, _whole_blocks(seconds / self._row_seconds)), self.most_rows)

    def seconds_for(self, n_sessions: int) -> float:
        """A guess at how long it takes until so many sessions more have been served; at least a second."""
        return max(1.0, n_sessions * 8 * (self._step_seconds or 0.05))


def _whole_blocks(rows: float) -> int:
    return int(rows) // BLOCK_ROWS * BLOCK_ROWS


def _blend(before: float | None, new: float) -> float:
    return new if before is None else (1 - _MEMORY) * before + _MEMORY * new
