"""Measures a text's likelihood under a model, and how often the model agrees with its teacher.

Shapes: N predicting positions, V vocabulary, T positions of a row.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from cleangpt.data.batches import Batch
from cleangpt.distillation.text import next_ids, predicting
from cleangpt.errors import EmptyDataError, VocabularyMismatchError

_ROWS_AT_ONCE = 1024


class Predictor(Protocol):
    """A model, or parts of one, that predicts ids."""

    def logits(self, batch: Batch) -> Tensor:
        """The logits at the predicting positions, [N, V], row by row."""
        ...


@dataclass(frozen=True)
class Likelihood:
    """Sums over a text: the surprise of ids in nats, and their number.

    Entry i covers the ids with i + 1 others before them in their row.
    """

    nats: tuple[float, ...]
    counts: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """The number of predicted ids."""
        return sum(self.counts)

    @property
    def loss(self) -> float:
        """Nats per token."""
        return sum(self.nats) / self.tokens

    @property
    def perplexity(self) -> float:
        """The number of equally likely ids that would leave the model as unsure; inf if it overflows."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    def bits_per_byte(self, tokens_per_byte: float) -> float:
        """The size of the text if the model compressed it, in bits per byte; comparable between tokenizers."""
        return self.loss * tokens_per_byte / math.log(2)


@dataclass(frozen=True)
class Agreement:
    """`top_1` and `top_5` are the shares, 0 to 1, of positions at which the teacher's most likely id is the student's
    most likely one, or among its five most likely. `divergence` is the mean of KL(teacher, student) in nats.
    """

    positions: int
    top_1: float
    top_5: float
    divergence: float


@dataclass(frozen=True)
class Predictions:
    """The results of one pass over a text."""

    student: Likelihood
    teacher: Likelihood | None = None
    agreement: Agreement | None = None


@torch.no_grad()
def measure_predictions(student: Predictor, teacher: Predictor | None, batches: Iterable[Batch]) -> Predictions:
    """Measures one or both models; each reads every batch once.

    Raises:
        VocabularyMismatchError: the models have vocabularies of different sizes.
        EmptyDataError: there is nothing to predict.
    """
    own, others, agreed = _Surprise(), _Surprise(), _Agreed()
    for batch in batches:
        wanted_N, at_N = next_ids(batch), predicting(batch).nonzero()[:, 1]
        found_NV = student.logits(batch)
        own.add(found_NV, wanted_N, at_N)
        if teacher is not None:
            right_NV = teacher.logits(batch)
            if right_NV.shape != found_NV.shape:
                raise VocabularyMismatchError(student=found_NV.shape[1], teacher=right_NV.shape[1])
            others.add(right_NV, wanted_N, at_N)
            agreed.add(found_NV, right_NV)
    if not own.tokens:
        raise EmptyDataError("the text has no token to predict; give more text")
    if teacher is None:
        return Predictions(own.likelihood())
    return Predictions(own.likelihood(), others.likelihood(), agreed.agreement())


@dataclass
class _Surprise:
    nats_T: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))  # noqa: N815 - a shape
    counts_T: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))  # noqa: N815

    @property
    def tokens(self) -> int:
        return int(self.counts_T.sum())

    def add(self, logits_NV: Tensor, wanted_N: Tensor, at_N: Tensor) -> None:
        parts = zip(_chunks(logits_NV), _chunks(wanted_N), strict=True)
        nats = [functional.cross_entropy(found.float(), wanted, reduction="none") for found, wanted in parts]
        at_N = at_N.cpu()
        self.nats_T = _sum(self.nats_T, torch.bincount(at_N, torch.cat(nats).double().cpu()))
        self.counts_T = _sum(self.counts_T, torch.bincount(at_N).double())

    def likelihood(self) -> Likelihood:
        return Likelihood(tuple(self.nats_T.tolist()), tuple(int(count) for count in self.counts_T.tolist()))


@dataclass
class _Agreed:
    positions: int = 0
    top_1: int = 0
    top_5: int = 0
    divergence: float = 0.0

    def add(self, found_NV: Tensor, right_NV: Tensor) -> None:
        parts = zip(_chunks(found_NV), _chunks(right_NV), strict=True)
        for found, right in parts:
            chosen_N1 = right.argmax(-1, keepdim=True)
            ahead_N = (found > found.gather(-1, chosen_N1)).sum(-1)
            self.positions += len(found)
            # ties go to the first id, in both models
            self.top_1 += int((found.argmax(-1, keepdim=True) == chosen_N1).sum())
            self.top_5 += int((ahead_N < 5).sum())
            mine, theirs = found.float().log_softmax(-1), right.float().log_softmax(-1)
            self.divergence += float(functional.kl_div(mine, theirs, reduction="sum", log_target=True))

    def agreement(self) -> Agreement:
        n = self.positions
        return Agreement(n, self.top_1 / n, self.top_5 / n, self.divergence / n)


def _chunks(rows: Tensor) -> Sequence[Tensor]:
    return tuple(torch.tensor_split(rows, max(1, -(-len(rows) // _ROWS_AT_ONCE))))


def _sum(one_T: Tensor, other_T: Tensor) -> Tensor:
    longer = max(len(one_T), len(other_T))
    padded: Sequence[Tensor] = [functional.pad(each, (0, longer - len(each))) for each in (one_T, other_T)]
    return padded[0] + padded[1]
