"""Measures the error of a student's hidden states against its teacher's, block by block.

Shapes: B rows, T positions, N positions with text, S the student's width, D the teacher's width.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from cleangpt.data.batches import Batch
from cleangpt.distillation.stitching import block_map
from cleangpt.distillation.text import present
from cleangpt.errors import EmptyDataError
from splitlearn.model.layout import inspect_model


@dataclass(frozen=True)
class BlockError:
    """The error of one student block against the teacher block that it replaces, both counted from 0.

    `teacher` None means the whole trunk, to whose rows every layer of a shadow is fitted.

    `relative_mse` is the squared error over the squared teacher states, so all-zero output scores 1. `cosine` is the
    mean cosine between the rows. `is_mapped`: the widths differ, so the student is read through the linear map that
    best fits one half of the rows of text, and measured on the other half.
    """

    student: int
    teacher: int | None
    relative_mse: float
    cosine: float
    is_mapped: bool

    @property
    def target(self) -> str:
        """The name of what the student block replaces."""
        return "trunk" if self.teacher is None else str(self.teacher)


@torch.no_grad()
def block_errors(
    student: PreTrainedModel, teacher: PreTrainedModel, batches: Sequence[Batch], chosen: Sequence[int] | None = None
) -> tuple[BlockError, ...]:
    """The error of each student block.

    Args:
        chosen: the teacher block for each student block; None spreads them evenly, as distillation does.

    Raises:
        BlockMapError: `chosen` does not fit.
        EmptyDataError: there is no position to compare, or the widths differ and there is only one row of text.
        UnsupportedModel: a model has no list of layers.
    """
    pairs = list(enumerate(block_map(inspect_model(student).n_layers, inspect_model(teacher).n_layers, chosen)))

    def both(batch: Batch) -> Iterator[tuple[Tensor, Tensor]]:
        own, others = hidden_states(student, batch.ids_BT), hidden_states(teacher, batch.ids_BT)
        return ((own[block], others[fed]) for block, fed in pairs)

    found_S, wanted_D = (hidden_states(each, batches[0].ids_BT)[0].shape[-1] for each in (student, teacher))
    if found_S == wanted_D:
        sums = [_Error() for _ in pairs]
        for batch in batches:
            counts_BT = present(batch)
            for error, (own_BTS, other_BTD) in zip(sums, both(batch), strict=True):
                error.add(own_BTS[counts_BT], other_BTD[counts_BT])
        return tuple(error.of(*pair, is_mapped=False) for error, pair in zip(sums, pairs, strict=True))
    maps = [_LinearMap(found_S, wanted_D) for _ in pairs]
    sums = [_Error() for _ in pairs]
    for batch, fitted_BT, _ in _halves(batches):
        for each, (own_BTS, other_BTD) in zip(maps, both(batch), strict=True):
            each.learn(own_BTS[fitted_BT], other_BTD[fitted_BT])
    weights = [each.solved() for each in maps]
    for batch, _, measured_BT in _halves(batches):
        for error, weight, (own_BTS, other_BTD) in zip(sums, weights, both(batch), strict=True):
            error.add(_with_one(own_BTS[measured_BT]) @ weight.to(own_BTS.device), other_BTD[measured_BT])
    return tuple(error.of(*pair, is_mapped=True) for error, pair in zip(sums, pairs, strict=True))


@torch.no_grad()
def row_errors(pairs: Iterable[tuple[Tensor, Tensor]], student: int, teacher: int | None) -> BlockError:
    """The error of rows [N, D] against the rows [N, D] that they replace."""
    error = _Error()
    for own_ND, other_ND in pairs:
        error.add(own_ND, other_ND)
    return error.of(student, teacher, is_mapped=False)


def hidden_states(model: PreTrainedModel, ids_BT: Tensor) -> list[Tensor]:
    """The output of each layer of a causal model, [B, T, D], with several streams side by side."""
    found: list[Tensor] = []

    def keep(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        found.append((output[0] if isinstance(output, tuple) else output).flatten(2))

    layout = inspect_model(model)
    hooks = [layer.register_forward_hook(keep) for layer in model.get_submodule(layout.layers).children()]
    try:
        model.get_submodule(layout.decoder)(input_ids=ids_BT, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return found


@dataclass
class _Error:
    squares: float = 0.0
    targets: float = 0.0
    cosines: float = 0.0
    rows: int = 0

    def add(self, found_ND: Tensor, wanted_ND: Tensor) -> None:
        found_ND, wanted_ND = found_ND.double(), wanted_ND.double()
        self.squares += float((found_ND - wanted_ND).square().sum())
        self.targets += float(wanted_ND.square().sum())
        self.cosines += float(functional.cosine_similarity(found_ND, wanted_ND, dim=-1).sum())
        self.rows += len(found_ND)

    def of(self, student: int, teacher: int | None, *, is_mapped: bool) -> BlockError:
        if not self.rows:
            raise EmptyDataError("no position of the text is left to compare hidden states at; give more text")
        # a floor, so that the error is finite if the teacher's rows are all zero
        relative = self.squares / max(self.targets, 1e-12)
        return BlockError(student, teacher, relative, self.cosines / self.rows, is_mapped)


class _LinearMap:
    """A least-squares linear map with an intercept, accumulated as normal equations."""

    def __init__(self, student_width: int, teacher_width: int) -> None:
        self._gram_SS = torch.zeros(student_width + 1, student_width + 1, dtype=torch.float64)
        self._cross_SD = torch.zeros(student_width + 1, teacher_width, dtype=torch.float64)

    def learn(self, student_NS: Tensor, teacher_ND: Tensor) -> None:
        student_NS = _with_one(student_NS)
        self._gram_SS += (student_NS.T @ student_NS).cpu()
        self._cross_SD += (student_NS.T @ teacher_ND.double()).cpu()

    def solved(self) -> Tensor:
        # a student's streams may be linearly dependent: pinv gives the smallest of all equally good maps
        inverse_SS = torch.linalg.pinv(self._gram_SS, rtol=1e-9, hermitian=True)
        return torch.as_tensor(inverse_SS @ self._cross_SD)


def _with_one(rows_NS: Tensor) -> Tensor:
    return functional.pad(rows_NS.double(), (0, 1), value=1.0)


def _halves(batches: Sequence[Batch]) -> Iterator[tuple[Batch, Tensor, Tensor]]:
    """Each batch with the positions to fit on, which are in every other row of text, and those to measure on."""
    if sum(len(batch.ids_BT) for batch in batches) < 2:
        raise EmptyDataError(
            "between unequal widths a map is fitted on one half of the rows of text and measured on the other, but "
            "there is one row; give more text or a smaller block_size"
        )
    before = 0
    for batch in batches:
        rows_B1 = ((torch.arange(len(batch.ids_BT), device=batch.ids_BT.device) + before) % 2 == 0)[:, None]
        before += len(batch.ids_BT)
        counts_BT = present(batch)
        yield batch, counts_BT & rows_B1, counts_BT & ~rows_B1
