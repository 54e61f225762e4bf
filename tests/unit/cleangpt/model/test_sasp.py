"""Shaped attention against its equations.

Shapes: T rows, D hidden size, H heads, d width of a head.
"""

from itertools import product

import pytest
import torch

from cleangpt.config import GPTConfig
from cleangpt.model import SASPForCausalLM, get_model
from cleangpt.model.alibi import alibi_slopes
from support.small_gpts import shaken

N_ROWS, N_HEADS, WIDTH = 9, 3, 12


def model_of_one_layer(alibi: bool, **options: bool) -> SASPForCausalLM:
    sizes = {"block_size": 16, "vocab_size": 30, "n_layer": 1, "n_head": N_HEADS, "n_embd": WIDTH}
    config = GPTConfig(**sizes, alibi=alibi, **options)
    model = get_model("SASP", config).eval()
    assert isinstance(model, SASPForCausalLM)
    return model


@torch.no_grad()
def layer_rows(model: SASPForCausalLM) -> tuple[torch.Tensor, torch.Tensor]:
    """What goes into the one layer and what comes out of it, [T, D]."""
    seen: list[torch.Tensor] = []
    hook = model.model.layers[0].register_forward_hook(lambda _, args, output: seen.extend((args[0][0], output[0])))
    model(torch.arange(N_ROWS)[None])
    hook.remove()
    return seen[0], seen[1]


@pytest.mark.parametrize(("alibi", "has_values", "has_projection"), [*product((False, True), repeat=3)])
def test_attention_begins_as_the_identity_and_with_skips_at_zero(
    alibi: bool, has_values: bool, has_projection: bool
) -> None:
    projections = {"value_projection": has_values, "output_projection": has_projection}
    model = model_of_one_layer(alibi, **projections)
    layer = model.model.layers[0]
    before_TD, after_TD = layer_rows(model)
    normed_TD = layer.norm(before_TD)
    torch.testing.assert_close(after_TD, normed_TD + 0.1 * layer.mlp(normed_TD))
    skipping = model_of_one_layer(alibi, skip_connections=True, **projections)
    layer = skipping.model.layers[0]
    before_TD, after_TD = layer_rows(skipping)
    torch.testing.assert_close(after_TD, before_TD + 0.1 * layer.mlp(layer.norm(before_TD)))


@pytest.mark.parametrize(("has_values", "has_projection"), [*product((False, True), repeat=2)])
def test_with_skips_attention_leaves_zero_in_the_first_step(has_values: bool, has_projection: bool) -> None:
    options = {"skip_connections": True, "value_projection": has_values, "output_projection": has_projection}
    model = model_of_one_layer(False, **options)
    ids = torch.arange(N_ROWS)[None]
    model(ids, labels=ids).loss.backward()
    own = model.model.layers[0].attention
    assert own.alpha.grad.abs().min() > 1e-6
    assert own.query.weight.grad.abs().max() > 1e-6


@torch.no_grad()
@pytest.mark.parametrize(("option", "module"), [("value_projection", "value"), ("output_projection", "output")])
def test_a_projection_that_is_the_identity_is_none(option: str, module: str) -> None:
    others = {"skip_connections": True, "value_projection": True, "output_projection": True}
    projecting, plain = (shaken(model_of_one_layer(False, **{**others, option: switch})) for switch in (True, False))
    projecting.load_state_dict(plain.state_dict(), strict=False)
    projection = getattr(projecting.model.layers[0].attention, module)
    projection.weight.copy_(torch.eye(WIDTH))
    projection.bias.zero_()
    torch.testing.assert_close(layer_rows(projecting)[1], layer_rows(plain)[1])
    projection.weight.mul_(2)
    assert (layer_rows(projecting)[1] - layer_rows(plain)[1]).abs().max() > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("alibi", [False, True])
def test_a_layer_is_what_the_equations_say(alibi: bool) -> None:
    model = shaken(model_of_one_layer(alibi))
    layer = model.model.layers[0]
    own = layer.attention
    before_TD, after_TD = layer_rows(model)
    normed_TD = layer.norm(before_TD)

    def by_head(rows_TD: torch.Tensor) -> torch.Tensor:
        return rows_TD.view(N_ROWS, N_HEADS, -1).transpose(0, 1)

    q_HTd, k_HTd, n_HTd = by_head(own.query(normed_TD)), by_head(own.key(normed_TD)), by_head(normed_TD)
    bias_HTT = torch.zeros(N_HEADS, N_ROWS, N_ROWS)
    if alibi:
        steps_T = torch.arange(N_ROWS).float()
        bias_HTT = torch.tensor(alibi_slopes(N_HEADS))[:, None, None] * (steps_T[None, :] - steps_T[:, None])
    bias_HTT = bias_HTT.masked_fill(torch.ones(N_ROWS, N_ROWS, dtype=torch.bool).triu(1), float("-inf"))
    attention_HTT = (q_HTd @ k_HTd.transpose(1, 2) / (WIDTH // N_HEADS) ** 0.5 + bias_HTT).softmax(-1)
    centre_HTT = bias_HTT.softmax(-1)
    if not alibi:
        torch.testing.assert_close(centre_HTT[0, 4], torch.tensor([0.2] * 5 + [0.0] * 4))
    alpha, beta, gamma = (gain[:, None, None] for gain in (own.alpha, own.beta, own.gamma))
    shaped_HTd = alpha * n_HTd + beta * (attention_HTT @ n_HTd) - gamma * (centre_HTT @ n_HTd)
    attended_TD = own.output(shaped_HTd.transpose(0, 1).flatten(1))
    torch.testing.assert_close(after_TD, attended_TD + layer.mlp_gain * layer.mlp(normed_TD))


def test_there_are_no_values_unless_asked_for_and_every_head_has_gains_of_its_own() -> None:
    shapes = {name: tuple(p.shape) for name, p in model_of_one_layer(False).model.layers[0].named_parameters()}
    square = [name for name, shape in shapes.items() if shape == (WIDTH, WIDTH)]
    assert square == ["attention.query.weight", "attention.key.weight", "attention.output.weight"]
    options = {"skip_connections": True, "value_projection": True, "output_projection": False}
    other = {name for name, _ in model_of_one_layer(False, **options).model.layers[0].named_parameters()}
    assert other ^ shapes.keys() == {
        f"attention.{name}" for name in ("value.weight", "value.bias", "output.weight", "output.bias")
    }
    assert shapes["attention.alpha"] == shapes["attention.beta"] == shapes["attention.gamma"] == (N_HEADS,)
