"""Plans that are tried out on the attention of a part of Llama. Shapes: T rows, D hidden size."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import nn

from splitlearn.backends.cpu.backend import ContiguousBackend
from splitlearn.backends.cpu.fused_attention import AttentionPlan
from splitlearn.backends.cpu.fused_layers import LayerPlan
from splitlearn.backends.cpu.fused_norms import same_numbers
from splitlearn.backends.cpu.module_fusion import FusedModule, ModuleCall, replace_modules
from splitlearn.model.part import Part
from splitlearn.runner.batched import BatchedRunner
from support.fused_modules import equal, fused_modules, outputs, packed
from support.tiny_models import tiny_config

pytestmark = pytest.mark.usefixtures("every_set")

Change = Callable[[torch.Tensor, ModuleCall], torch.Tensor | None]


@dataclass
class Tried:
    """Gives what the right plan gives, changed by the step's own of `changes`; the last one holds from then on."""

    right: AttentionPlan
    changes: list[Change]
    n_runs: int = field(default=0)

    def run(self, call: ModuleCall) -> torch.Tensor | None:
        change = self.changes[min(self.n_runs, len(self.changes) - 1)]
        self.n_runs += 1
        return change(self.right.run(call), call)


def same(output_1TD: torch.Tensor, _call: ModuleCall) -> torch.Tensor:
    return output_1TD


def nothing(_output_1TD: torch.Tensor, _call: ModuleCall) -> None:
    return None


def doubled(output_1TD: torch.Tensor, _call: ModuleCall) -> torch.Tensor:
    return output_1TD * 2


def same_but_keeps_other_rows(output_1TD: torch.Tensor, call: ModuleCall) -> torch.Tensor:
    keys, _ = call.cache.gather(0)
    keys[:, call.cache.positions[0] :] += 1
    return output_1TD


class Given:
    """A part whose first attention module can be tried; nothing stands in for anything."""

    def __init__(self, folder: Path) -> None:
        self.part: Part = packed(folder, tiny_config("llama"))
        self.runner = BatchedRunner(self.part, None, ContiguousBackend)
        self.attention = fused_modules(self.part, AttentionPlan)[0]
        fused: FusedModule = vars(self.attention)["forward"]
        self.right = fused.plan
        for module in self.part.modules():
            vars(module).pop("forward", None)

    def is_replaced(
        self, *changes: Callable[..., torch.Tensor | None], run: Callable[[], object] | None = None
    ) -> bool:
        def plans(_module: nn.Module, _call: ModuleCall) -> Iterator[Tried]:
            yield Tried(self.right, list(changes))

        n_replaced = replace_modules(iter([self.attention]), plans, run or (lambda: outputs(self.runner)), same_numbers)
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
    BatchedRunner(part, None, ContiguousBackend)
    before = [vars(module)["forward"] for module in fused_modules(part, LayerPlan)]
    BatchedRunner(part, None, ContiguousBackend)
    assert before
    assert [vars(module)["forward"] for module in fused_modules(part, LayerPlan)] == before
