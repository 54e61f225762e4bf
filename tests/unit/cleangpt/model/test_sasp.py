"""Shaped attention against its equations.

Shapes: T rows, D hidden size, H heads, d width of a head.
"""

import pytest
import torch

from cleangpt.config import GPTConfig
from cleangpt.model import SASPForCausalLM, get_model
from cleangpt.model.alibi import alibi_slopes
from support.small_gpts import shaken

N_ROWS, N_HEADS, WIDTH = 9, 3, 12


def model_of_one_layer(alibi: bool) -> SASPForCausalLM:
    config = GPTConfig(block_size=16, vocab_size=30, n_layer=1, n_head=N_HEADS, n_embd=WIDTH, alibi=alibi)
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


@pytest.mark.parametrize("alibi", [False, True])
def test_attention_begins_as_the_identity(alibi: bool) -> None:
    model = model_of_one_layer(alibi)
    layer = model.model.layers[0]
    before_TD, after_TD = layer_rows(model)
    normed_TD = layer.norm(before_TD)
    torch.testing.assert_close(after_TD, normed_TD + 0.1 * layer.mlp(normed_TD))


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


def test_there_are_no_values_and_every_head_has_gains_of_its_own() -> None:
    shapes = {name: tuple(p.shape) for name, p in model_of_one_layer(False).model.layers[0].named_parameters()}
    square = [name for name, shape in shapes.items() if shape == (WIDTH, WIDTH)]
    assert square == ["attention.query.weight", "attention.key.weight", "attention.output.weight"]
    assert shapes["attention.alpha"] == shapes["attention.beta"] == shapes["attention.gamma"] == (N_HEADS,)
