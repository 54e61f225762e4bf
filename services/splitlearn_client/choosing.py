"""What is done with the last rows of a session's step: tokens are chosen from the top's logits.

Shapes: T rows, V vocabulary.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from splitlearn.engine import RowReader
from splitlearn.model.part import Wanted
from splitlearn_client.sampling import Choice, Sampler


class PromptReader(Protocol):
    """Reads something off all rows of a prompt while they run. Of the top's rows it gets what is `wanted`."""

    @property
    def wanted(self) -> Wanted:
        """Logits or hidden states of all rows; see `RowReader`."""

    def rows_at_once(self, vocabulary: int) -> int:
        """How many rows may be run at once, so that what is wanted of them takes little memory."""

    def add(self, position: int, rows: torch.Tensor) -> None:
        """Called on the device thread with some rows, which may come again."""


@dataclass
class Choosing:
    """Chooses the token after `ids`, on the device thread, as a part of the top's step: one for each sampler.

    With guesses the one sampler chooses the next tokens too, for as long as it chooses what was guessed.
    """

    ids: list[int]
    samplers: Sequence[Sampler]
    reader: PromptReader | None = None
    guesses: Sequence[int] = ()
    n_padding: int = 0
    """Rows that only fill the frame up: they run behind all others, and nothing is read off them."""
    choices: list[Choice] = field(init=False)
    seconds: float = 0.0
    _logits: torch.Tensor = field(init=False)

    @property
    def end(self) -> int:
        """How many rows are to be run in all."""
        return len(self.ids) + self.n_behind

    @property
    def n_behind(self) -> int:
        """How many rows run behind those of `ids`: one frame has them and the last row before them."""
        return len(self.guesses) + self.n_padding

    @property
    def n_likeliest(self) -> int | None:
        """How many of the likeliest tokens each choice is made among; None if all are needed."""
        counts = [sampler.n_likeliest for sampler in self.samplers]
        known = [count for count in counts if count is not None]
        return max(known) if known and len(known) == len(counts) else None

    @property
    def row_reader(self) -> RowReader | None:
        """What reads the top's rows; None if only the last one's logits are wanted."""
        if self.n_behind:
            return RowReader("all", self._keep)
        return None if self.reader is None else RowReader(self.reader.wanted, self.reader.add)

    def tokens(self, start: int, stop: int) -> torch.Tensor:
        """The ids, with guesses and padding behind them, of these rows."""
        n_ids = len(self.ids)
        behind = [*self.guesses, *self.ids[-1:] * self.n_padding] if self.n_behind else []
        return torch.tensor([*self.ids[start:stop], *behind[max(0, start - n_ids) : max(0, stop - n_ids)]])

    async def ready(self) -> None:
        """Waits for what says which tokens may come; it was worked out while the trunk computed."""
        for sampler in self.samplers:
            if sampler.matcher is not None:
                await sampler.matcher.ready()

    def __call__(self, logits_V: torch.Tensor) -> None:
        began = time.perf_counter()
        if self.n_behind:
            [sampler] = self.samplers
            self.choices = sampler.follow(self._logits, self.ids, self.guesses)
        else:
            self.choices = [sampler.choose(logits_V, self.ids) for sampler in self.samplers]
        self.seconds = time.perf_counter() - began

    def _keep(self, _position: int, logits_TV: torch.Tensor) -> None:
        # `__call__` comes next, in the same step
        self._logits = logits_TV
