"""Shapes: T rows, D hidden size."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PretrainedConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRMSNorm

from architectures.small_configs import small_config
from splitlearn.backends.cpu.backend import ContiguousBackend
from splitlearn.backends.cpu.fused_attention import AttentionPlan
from splitlearn.backends.cpu.fused_layers import LayerPlan
from splitlearn.backends.cpu.packing import pack
from splitlearn.checkpoints.load import load_part
from splitlearn.model.part import Part
from splitlearn.runner.batched import BatchedRunner
from support.fused_modules import equal, fused_modules, outputs, packed, without
from support.tiny_models import random_model, save_sepweight, tiny_config

pytestmark = pytest.mark.usefixtures("every_set")

# what makes each of them special: shared keys; biases; norms of heads; layers without positions; a window; GELU, norms
# around and capped scores; norms of heads that add one
NATIVE: dict[str, Callable[[], PretrainedConfig]] = {
    "llama": lambda: tiny_config("llama"),
    "qwen2": lambda: small_config("qwen2"),
    "qwen3": lambda: small_config("qwen3"),
    "smollm3": lambda: small_config("smollm3"),
    "mistral": lambda: tiny_config("mistral", sliding_window=6),
    "gemma2": lambda: small_config("gemma2"),
    "gemma3_text": lambda: small_config("gemma3_text"),
}
# experts; norms of all heads at once
STOCK = ["mixtral", "olmo2"]


class NormedAfter(LlamaDecoderLayer):
    """As OLMo 2."""

    def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        attended, _ = self.self_attn(hidden_states=hidden_states, **kwargs)
        hidden_states = hidden_states + self.input_layernorm(attended)
        return hidden_states + self.post_attention_layernorm(self.mlp(hidden_states))


class NormedAround(LlamaDecoderLayer):
    """As Gemma 2."""

    def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        attended, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **kwargs)
        hidden_states = hidden_states + self.post_attention_layernorm(attended)
        opened = self.mlp(self.before_gates(hidden_states))
        return hidden_states + self.after_gates(opened)


class Doubled(LlamaDecoderLayer):
    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        output: torch.Tensor = super().forward(*args, **kwargs)
        return output * 2


class Swapped(LlamaDecoderLayer):
    """The norms are where they are in Llama, and trade places."""

    def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        attended, _ = self.self_attn(hidden_states=self.post_attention_layernorm(hidden_states), **kwargs)
        hidden_states = hidden_states + attended
        return hidden_states + self.mlp(self.input_layernorm(hidden_states))


def remade(folder: Path, kind: type[nn.Module], n_more_norms: int = 0) -> Part:
    """A part of Llama whose first layer is of another kind, all norms with weights of their own."""
    part = load_part(save_sepweight(folder, random_model(tiny_config("llama")).bfloat16()), "2-4")
    first = layers(part)[0]
    first.__class__ = kind
    for name in ("before_gates", "after_gates")[:n_more_norms]:
        setattr(first, name, LlamaRMSNorm(part.hidden_size).bfloat16())
    dice = torch.Generator().manual_seed(0)
    for each in first.modules():
        if isinstance(each, LlamaRMSNorm):
            each.weight.data = torch.rand(part.hidden_size, generator=dice).add(0.5).bfloat16()
    pack(part)
    return part


def layers(part: Part) -> list[nn.Module]:
    return [each for each in part.modules() if "self_attn" in each._modules]


def one_by_one(runner: BatchedRunner) -> list[torch.Tensor]:
    """What a runner gives without stand-ins of whole layers and decoders."""
    without(runner.part, LayerPlan)
    assert fused_modules(runner.part, AttentionPlan)
    return outputs(runner)


@pytest.mark.parametrize("quantization", ["none", "int8", "int4"])
@pytest.mark.parametrize("name", NATIVE)
def test_a_layer_in_one_call_gives_what_its_parts_give_to_the_bit(tmp_path: Path, name: str, quantization: str) -> None:
    runner = BatchedRunner(packed(tmp_path, NATIVE[name](), quantization), None, ContiguousBackend)
    assert fused_modules(runner.part, LayerPlan) == layers(runner.part)
    found = outputs(runner)
    assert equal(found, one_by_one(runner))


@pytest.mark.parametrize(("kind", "n_more_norms"), [(NormedAfter, 0), (NormedAround, 2)])
def test_norms_may_stand_behind_or_around(tmp_path: Path, kind: type[nn.Module], n_more_norms: int) -> None:
    runner = BatchedRunner(remade(tmp_path, kind, n_more_norms), None, ContiguousBackend)
    assert fused_modules(runner.part, LayerPlan) == layers(runner.part)
    found = outputs(runner)
    assert equal(found, one_by_one(runner))


@pytest.mark.parametrize("kind", [Doubled, Swapped])
def test_a_layer_that_computes_something_else_is_left_alone(tmp_path: Path, kind: type[nn.Module]) -> None:
    runner = BatchedRunner(remade(tmp_path, kind), None, ContiguousBackend)
    assert fused_modules(runner.part, LayerPlan) == layers(runner.part)[1:]


@pytest.mark.parametrize("name", STOCK)
def test_a_layer_of_other_parts_is_left_alone(tmp_path: Path, name: str) -> None:
    assert not fused_modules(
        BatchedRunner(packed(tmp_path, small_config(name)), None, ContiguousBackend).part, LayerPlan
    )


def test_who_looks_on_later_at_what_runs_inside_still_sees_it(tmp_path: Path) -> None:
    runner = BatchedRunner(packed(tmp_path, tiny_config("llama")), None, ContiguousBackend)
    expected, seen = outputs(runner), []
    hook = layers(runner.part)[0].mlp.register_forward_hook(lambda _module, _args, output: seen.append(output.shape))
    found = outputs(runner)
    assert len(seen) == 5
    assert equal(found, expected)
    hook.remove()
    outputs(runner)
    assert len(seen) == 5
