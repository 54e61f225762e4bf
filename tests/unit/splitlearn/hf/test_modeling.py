"""The names that our own forwards stand on are those of transformers' models."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import CONFIG_MAPPING, DynamicCache
from transformers.pytorch_utils import Conv1D

from splitlearn.hf.cache import named_cache
from splitlearn.hf.modeling import (
    DECODER,
    GATED_MLP,
    HEAD_NORMS,
    PROJECTIONS,
    SILU,
    TANH_GELU,
    DecoderParts,
    has_inputs_first,
    hidden_in,
    linear_weight,
    mask_in,
    norm_epsilon,
    rotates_by_positions_alone,
    rotation_in,
    weights_read,
    with_hidden,
)
from splitlearn.model.layout import build_on_meta
from support.tiny_models import random_model, tiny_config

IDS = torch.arange(5)[None]


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3", "mistral", "gemma"])
def test_decoders_have_the_children_that_ours_call(model_type: str) -> None:
    decoder = build_on_meta(tiny_config(model_type)).model
    assert {name for name, _ in decoder.named_children()} == DECODER
    assert rotates_by_positions_alone(decoder)
    (layer, *_) = decoder.layers
    norms = set(HEAD_NORMS) if model_type == "qwen3" else set()
    assert {name for name, _ in layer.self_attn.named_children()} == set(PROJECTIONS) | norms
    assert {name for name, _ in layer.mlp.named_children()} == GATED_MLP
    assert isinstance(layer.mlp.act_fn, TANH_GELU if model_type == "gemma" else SILU)
    assert norm_epsilon(layer.input_layernorm) == pytest.approx(1e-6, rel=0, abs=1e-5)
    assert norm_epsilon(layer.mlp) is None


def test_a_rotation_that_differs_between_layers_needs_more_than_positions() -> None:
    config = CONFIG_MAPPING["gemma3_text"](num_hidden_layers=2)
    assert not rotates_by_positions_alone(build_on_meta(config).model)


def test_layers_are_called_with_the_names_that_ours_read() -> None:
    model, seen = random_model(tiny_config("llama")), []

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append((hidden_in(args, kwargs), rotation_in(kwargs), mask_in(kwargs)))

    for each in (model.model.layers[0], model.model.layers[0].self_attn):
        each.register_forward_pre_hook(note, with_kwargs=True)
    model(IDS, attention_mask=torch.tensor([[0, 1, 1, 1, 1]]))
    assert len(seen) == 2
    for hidden, rotation, mask in seen:
        assert hidden.shape == (1, 5, 64)
        assert [each.shape for each in rotation] == [(1, 5, 16)] * 2
        assert mask.shape[-2:] == (5, 5)


@pytest.mark.parametrize(("args", "kwargs"), [((1, 2), {"mask": 3}), ((), {"hidden_states": 1, "mask": 3})])
def test_hidden_states_are_replaced_where_they_stand(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    args, kwargs = with_hidden(torch.ones(1), args, kwargs)
    assert torch.equal(hidden_in(args, kwargs), torch.ones(1))
    assert kwargs["mask"] == 3
    assert args[1:] == ((2,) if args else ())


def test_a_decoder_is_the_sum_of_its_parts() -> None:
    decoder = random_model(tiny_config("llama")).model
    parts, cache = DecoderParts(decoder), DynamicCache(config=decoder.config)
    positions = torch.arange(5)[None]
    hidden = parts.embed(IDS)
    rotation = parts.rotation(hidden, positions)
    for layer in decoder.layers:
        hidden = layer(hidden, position_embeddings=rotation, **named_cache(cache))
    expected = decoder(IDS, **named_cache(DynamicCache(config=decoder.config)))
    assert torch.equal(parts.norm(hidden), expected.last_hidden_state)
    assert cache.get_seq_length() == 5


def test_linear_layers_show_their_weight_by_outputs_and_inputs() -> None:
    assert linear_weight(nn.Linear(3, 2)).shape == (2, 3)  # type: ignore[union-attr]
    assert linear_weight(Conv1D(2, 3)).shape == (2, 3)  # type: ignore[union-attr]
    assert has_inputs_first(Conv1D(2, 3))
    assert not has_inputs_first(nn.Linear(3, 2))
    assert linear_weight(nn.LayerNorm(3)) is None
    assert linear_weight(nn.modules.linear.NonDynamicallyQuantizableLinear(3, 2)) is None


def test_weights_that_a_models_own_code_reads_are_found() -> None:
    assert not weights_read(build_on_meta(tiny_config("llama")).model.layers[0]) & {"q_proj", "o_proj", "down_proj"}
    latent = CONFIG_MAPPING["t5"](num_layers=1, num_decoder_layers=1)
    assert "wo" in weights_read(random_t5(latent))


def random_t5(config: Any) -> nn.Module:
    from transformers import T5Model

    with torch.device("meta"):
        model: nn.Module = T5Model(config)
    return model
