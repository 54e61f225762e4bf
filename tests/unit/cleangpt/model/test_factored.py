"""Two streams: who writes into which, and how.

Shapes: B sequences, T rows, D hidden size, H heads, d width of a head.
"""

import pytest
import torch
from transformers import PreTrainedModel

from cleangpt.config import GPTConfig
from cleangpt.model import get_model
from cleangpt.model.alibi import alibi_slopes
from support.small_gpts import shaken

N_LAYERS, N_HEADS, WIDTH, N_ROWS = 3, 3, 24, 10
IDS = torch.arange(N_ROWS)[None]


@pytest.fixture(params=["Factored", "FactoredALiBi"])
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    config = GPTConfig(block_size=16, vocab_size=30, n_layer=N_LAYERS, n_head=N_HEADS, n_embd=WIDTH)
    return shaken(get_model(request.param, config)).eval()


@torch.no_grad()
def streams(model: PreTrainedModel) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Both streams [T, D] before the first layer and after each."""
    rows: list[torch.Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda _, args, out: rows.extend((args[0], out))) for layer in model.model.layers
    ]
    model(IDS)
    for hook in hooks:
        hook.remove()
    token_and_context = [both_BTD[0].chunk(2, dim=-1) for both_BTD in (rows[0], *rows[1::2])]
    return [(token_TD, context_TD) for token_TD, context_TD in token_and_context]


def test_the_context_stream_begins_at_zero_and_the_token_stream_with_the_embeddings(model: PreTrainedModel) -> None:
    token_TD, context_TD = streams(model)[0]
    assert torch.count_nonzero(context_TD) == 0
    expected_TD = model.model.embed_tokens.weight[:N_ROWS]
    if not model.config.alibi:
        expected_TD = expected_TD + model.model.embed_positions.weight[:N_ROWS]
    torch.testing.assert_close(token_TD, expected_TD)


def test_the_mlp_writes_into_the_context_stream_alone(model: PreTrainedModel) -> None:
    before = streams(model)
    with torch.no_grad():
        model.model.layers[0].mlp.up.weight.neg_()
    after = streams(model)
    torch.testing.assert_close(after[1][0], before[1][0])
    assert (after[1][1] - before[1][1]).abs().max() > 1e-2


def test_without_attention_the_token_stream_stays_what_it_was(model: PreTrainedModel) -> None:
    with torch.no_grad():
        for layer in model.model.layers:
            layer.attention.output_mixing.weight.zero_()
    found = streams(model)
    assert all(torch.equal(token_TD, found[0][0]) for token_TD, _ in found)
    assert found[-1][1].abs().max() > 1e-2


def test_without_the_mlp_the_context_stream_stays_zero(model: PreTrainedModel) -> None:
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.down.weight.zero_()
            layer.mlp.down.bias.zero_()
    found = streams(model)
    assert all(torch.count_nonzero(context_TD) == 0 for _, context_TD in found)
    assert (found[-1][0] - found[0][0]).abs().max() > 1e-2


@torch.no_grad()
def test_each_layer_is_what_the_equations_say(model: PreTrainedModel) -> None:
    found = streams(model)
    for layer, (token_TD, context_TD), after in zip(model.model.layers, found, found[1:], strict=False):
        normed_TD = layer.attention_norm(token_TD + context_TD)
        q_HTd, k_HTd = layer.attention.query_key(normed_TD).view(N_ROWS, 2, N_HEADS, -1).permute(1, 2, 0, 3)
        scores_HTT = q_HTd @ k_HTd.transpose(1, 2) / (WIDTH // N_HEADS) ** 0.5
        if model.config.alibi:
            steps_T = torch.arange(N_ROWS).float()
            slopes_H = torch.tensor(alibi_slopes(N_HEADS))
            scores_HTT = scores_HTT + slopes_H[:, None, None] * (steps_T[None, :] - steps_T[:, None])
        hidden_TT = torch.ones(N_ROWS, N_ROWS, dtype=torch.bool).triu(1)
        attention_HTT = scores_HTT.masked_fill(hidden_TT, float("-inf")).softmax(-1)
        token_THd = token_TD.view(N_ROWS, N_HEADS, -1)
        mix_in, mix_out = layer.attention.value_mixing.weight, layer.attention.output_mixing.weight
        written_THd = torch.einsum("hg,gij,gf,jfd->ihd", mix_out, attention_HTT, mix_in, token_THd)
        expected_token_TD = token_TD + written_THd.flatten(1)
        torch.testing.assert_close(after[0], expected_token_TD)
        normed_TD = layer.mlp_norm(expected_token_TD + context_TD)
        torch.testing.assert_close(after[1], context_TD + layer.mlp(normed_TD))


@torch.no_grad()
def test_without_head_mixing_there_are_no_weights_for_it_and_it_is_the_identity(model: PreTrainedModel) -> None:
    sizes = {"block_size": 16, "vocab_size": 30, "n_layer": N_LAYERS, "n_head": N_HEADS, "n_embd": WIDTH}
    plain = get_model("Factored", GPTConfig(**sizes, alibi=model.config.alibi, head_mixing=False)).eval()
    missing, unexpected = plain.load_state_dict(model.state_dict(), strict=False)
    assert missing == []
    assert {name.rsplit(".", 2)[1] for name in unexpected} == {"value_mixing", "output_mixing"}
    assert (plain(IDS).logits - model(IDS).logits).abs().max() > 1e-2
    for layer in model.model.layers:
        for mixing in (layer.attention.value_mixing, layer.attention.output_mixing):
            mixing.weight.copy_(torch.eye(N_HEADS))
    torch.testing.assert_close(plain(IDS).logits, model(IDS).logits)


@torch.no_grad()
def test_the_final_norm_takes_the_sum_of_both(model: PreTrainedModel) -> None:
    token_TD, context_TD = streams(model)[-1]
    torch.testing.assert_close(model.model(IDS)[0][0], model.model.norm(token_TD + context_TD))
