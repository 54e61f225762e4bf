"""Shapes: T rows of all sessions, t rows of one, D hidden size."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from architectures.small_configs import small_config
from splitlearn.model.part import Part
from splitlearn.model.plan import SplitPlan
from splitlearn.runner.interface import SequenceInput
from splitlearn.runner.select import runner_for
from support.sessions import load_parts
from support.tiny_models import random_model, save_sepweight

LENGTHS = (4, 1, 6)


@pytest.fixture
def made(tmp_path: Path) -> Callable[[str], list[Part]]:
    """Bottom, trunk and top of a new model."""

    def make(name: str) -> list[Part]:
        return load_parts(save_sepweight(tmp_path / name, random_model(small_config(name))), SplitPlan(2, 4, 6))

    return make


def rows_of(part: Part) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(length, part.hidden_size, generator=generator) for length in LENGTHS]


def run(runner: Any, rows: list[torch.Tensor]) -> list[torch.Tensor]:
    outputs: list[torch.Tensor] = runner.run([SequenceInput(runner.new_kv(None), 0, each) for each in rows])
    return outputs


def check(part: Part, runner: Any, rows: list[torch.Tensor]) -> None:
    """Sessions together are as each alone, in a part that no runner has."""
    for output_TD, rows_T in zip(run(runner, rows), rows, strict=True):
        torch.testing.assert_close(output_TD, part(rows_T, 0, part.new_cache()), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["bloom", "rembert", "gpt_neo"])
def test_each_projection_is_computed_once_for_all_sessions(
    made: Callable[[str], list[Part]], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    part = made(name)[1]
    runner, weights, linear = runner_for(part), [], functional.linear

    def count(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        weights.append(id(weight))
        return linear(rows, weight, bias)

    monkeypatch.setattr(functional, "linear", count)
    run(runner, rows_of(part))
    layers = part.model.get_submodule(part.layout.layers)
    assert len(weights) == len(set(weights)) == sum(isinstance(each, nn.Linear) for each in layers.modules())


def test_a_projection_that_a_norm_follows_is_not_put_off(made: Callable[[str], list[Part]]) -> None:
    part = made("bloom")[1]
    for layer in part.model.get_submodule(part.layout.layers).children():
        attention, norm = layer.self_attention, nn.LayerNorm(part.hidden_size)
        stock = attention.forward

        def normed(*args: Any, stock: Any = stock, norm: nn.Module = norm, **kwargs: Any) -> Any:
            output, weights = stock(*args, **kwargs)
            return norm(output), weights

        attention.forward = normed
    check(part, runner_for(part), rows_of(part))


def test_sessions_at_the_end_of_a_table_of_positions_may_have_more_rows_than_it(
    made: Callable[[str], list[Part]],
) -> None:
    part = made("bart")[0]
    length = part.context_length
    assert length is not None
    check(part, runner_for(part), [torch.randint(3, 100, (n,)) for n in (length, length - 1, 2)])


def test_a_layer_that_looks_at_what_differs_from_session_to_session_is_refused_at_once(
    made: Callable[[str], list[Part]],
) -> None:
    part = made("bloom")[1]
    for layer in part.model.get_submodule(part.layout.layers).children():
        stock = layer.forward

        def looking(*args: Any, stock: Any = stock, **kwargs: Any) -> Any:
            assert kwargs["alibi"] is None or not bool(torch.as_tensor(kwargs["alibi"] == 3).all())
            return stock(*args, **kwargs)

        layer.forward = looking
    with pytest.raises(TypeError, match="differs from session to session"):
        runner_for(part)
