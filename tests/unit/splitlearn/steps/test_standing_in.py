"""Plans that are tried out on the attention of a part of Llama. Shapes: T rows, D hidden size."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import nn

from splitlearn.fused import same_numbers
from splitlearn.kernels import kernels
from splitlearn.part import Part
from splitlearn.steps.attention import AttentionPlan
from splitlearn.steps.layers import LayerPlan
from splitlearn.steps.runner import InBatches
from splitlearn.steps.standing_in import Asked, StandIn, put_stand_ins
from support.stand_ins import equal, outputs, packed, stand_ins
from support.tiny_models import tiny_config

pytestmark = pytest.mark.skipif(kernels() is None, reason="no C compiler at installation, or no AVX-512 with VNNI")

Change = Callable[[torch.Tensor, Asked], torch.Tensor | None]


@dataclass
class Tried:
    """Gives what the right plan gives, changed by the step's own of `changes`; the last one holds from then on."""

    right: AttentionPlan
    changes: list[Change]
    n_runs: int = field(default=0)

    def run(self, asked: Asked) -> torch.Tensor | None:
        change = self.changes[min(self.n_runs, len(self.changes) - 1)]
        self.n_runs += 1
        return change(self.right.run(asked), asked)


def same(output_1TD: torch.Tensor, _asked: Asked) -> torch.Tensor:
    return output_1TD


def nothing(_output_1TD: torch.Tensor, _asked: Asked) -> None:
    return None


def doubled(output_1TD: torch.Tensor, _asked: Asked) -> torch.Tensor:
    return output_1TD * 2


def same_but_keeps_other_rows(output_1TD: torch.Tensor, asked: Asked) -> torch.Tensor:
    keys, _ = asked.cache.held(0)
    keys[:, asked.cache.positions[0] :] += 1
    return output_1TD


class Given:
    """A part whose first attention module can be tried; nothing stands in for anything."""

    def __init__(self, folder: Path) -> None:
        self.part: Part = packed(folder, tiny_config("llama"))
        self.runner = InBatches(self.part)
        self.attention = stand_ins(self.part, AttentionPlan)[0]
        stand_in: StandIn = vars(self.attention)["forward"]
        self.right = stand_in.plan
        for module in self.part.modules():
            vars(module).pop("forward", None)

    def is_replaced(
        self, *changes: Callable[..., torch.Tensor | None], run: Callable[[], object] | None = None
    ) -> bool:
        def plans(_module: nn.Module, _asked: Asked) -> Iterator[Tried]:
            yield Tried(self.right, list(changes))

        n_replaced = put_stand_ins(iter([self.attention]), plans, run or (lambda: outputs(self.runner)), same_numbers)
        assert n_replaced == ("forward" in vars(self.attention))
        return bool(n_replaced)


@pytest.fixture
def given(tmp_path: Path) -> Given:
    return Given(tmp_path)


def test_a_plan_that_gives_the_same_each_time_stands_in(given: Given) -> None:
    assert given.is_replaced(same)


def test_a_plan_may_leave_some_steps_to_the_module(given: Given) -> None:
    assert given.is_replaced(nothing, same, nothing)


def test_a_plan_that_never_gives_anything_does_not_stand_in(given: Given) -> None:
    assert not given.is_replaced(nothing)


@pytest.mark.parametrize("changes", [(doubled, same), (same, doubled)])
def test_a_plan_that_gives_something_else_once_does_not_stand_in(given: Given, changes: tuple[Change, ...]) -> None:
    assert not given.is_replaced(*changes)


def test_a_plan_that_keeps_other_rows_does_not_stand_in(given: Given) -> None:
    assert not given.is_replaced(same_but_keeps_other_rows)


def test_sessions_keep_what_the_module_kept_whatever_a_plan_did(given: Given) -> None:
    expected, found = outputs(given.runner), []
    given.is_replaced(same_but_keeps_other_rows, run=lambda: found.extend(outputs(given.runner)))
    assert equal(found, expected)


def test_a_module_that_is_asked_in_another_way_too_is_left_alone(given: Given) -> None:
    def run() -> None:
        outputs(given.runner)
        given.part(torch.zeros(3, given.part.hidden_size).bfloat16(), 0, given.part.new_cache())

    assert not given.is_replaced(same, run=run)


def test_a_module_has_one_stand_in_at_most(tmp_path: Path) -> None:
    # its decoder stays as it is, so that a second runner asks all of its layers
    part = packed(tmp_path, tiny_config("mistral", sliding_window=6))
    InBatches(part)
    before = [vars(module)["forward"] for module in stand_ins(part, LayerPlan)]
    InBatches(part)
    assert before
    assert [vars(module)["forward"] for module in stand_ins(part, LayerPlan)] == before
