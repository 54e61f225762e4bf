"""Shapes: T rows, D hidden size."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PretrainedConfig
from transformers.models.llama.modeling_llama import LlamaAttention

from architectures.small_configs import small_config
from splitlearn.backends.cpu.backend import ContiguousBackend
from splitlearn.backends.cpu.fused_attention import AttentionPlan, fuse_attention
from splitlearn.backends.cpu.fused_layers import LayerPlan
from splitlearn.backends.cpu.packing import pack
from splitlearn.checkpoints.load import load_part
from splitlearn.runner.batched import BatchedRunner
from splitlearn.runner.interface import SequenceInput
from support.fused_modules import close, fused_modules, outputs, packed, without
from support.tiny_models import random_model, save_sepweight, tiny_config

pytestmark = pytest.mark.usefixtures("every_set")

# what makes each of them special: shared keys; biases; norms of heads; norms that add one, and two kinds of positions;
# layers without positions; a window; experts and half of each head rotated; capped scores and a window
NATIVE: dict[str, Callable[[], PretrainedConfig]] = {
    "llama": lambda: tiny_config("llama"),
    "qwen2": lambda: small_config("qwen2"),
    "qwen3": lambda: small_config("qwen3"),
    "gemma3_text": lambda: small_config("gemma3_text"),
    "smollm3": lambda: small_config("smollm3"),
    "mistral": lambda: tiny_config("mistral", sliding_window=6),
    "glm4_moe": lambda: small_config("glm4_moe"),
    "gemma2": lambda: small_config("gemma2"),
}
# rotated in pairs that lie side by side; sinks, and half the cosines; norms of all heads at once
STOCK = ["cohere", "gpt_oss", "olmo2"]


def natives(module: nn.Module) -> list[nn.Module]:
    return fused_modules(module, AttentionPlan)


def attentions(module: nn.Module) -> list[nn.Module]:
    return [each for each in module.modules() if "q_proj" in each._modules]


@pytest.mark.parametrize("name", NATIVE)
def test_sessions_in_one_step_get_what_the_models_own_attention_gives(tmp_path: Path, name: str) -> None:
    runner = BatchedRunner(packed(tmp_path, NATIVE[name]()), None, ContiguousBackend)
    assert len(natives(runner.part)) == len(attentions(runner.part)) == 2
    without(runner.part, LayerPlan)
    found = outputs(runner)
    for module in natives(runner.part):
        del module.forward
    close(found, outputs(runner))


@pytest.mark.parametrize("name", STOCK)
def test_attention_that_computes_something_else_is_left_alone(tmp_path: Path, name: str) -> None:
    runner = BatchedRunner(packed(tmp_path, small_config(name)), None, ContiguousBackend)
    assert not natives(runner.part)


def test_a_session_that_no_kernel_reads_gets_the_models_own_attention(tmp_path: Path) -> None:
    part = packed(tmp_path, tiny_config("llama"))
    rows_TD = torch.randn(5, part.hidden_size, generator=torch.Generator().manual_seed(0)).bfloat16()
    expected = part(rows_TD, 0, part.new_cache())
    (alone,) = (runner := BatchedRunner(part, None, ContiguousBackend)).run(
        [SequenceInput(runner.new_kv(None), 0, rows_TD)]
    )
    assert natives(part)
    assert torch.equal(part(rows_TD, 0, part.new_cache()), expected)
    close([alone], [expected])


class Halved(LlamaAttention):
    def forward(self, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, None]:
        output, _ = super().forward(*args, **kwargs)
        return output / 2, None


class Backwards(LlamaAttention):
    """Scores are the same, and so is what comes out; but not what the session keeps."""

    def forward(self, *, position_embeddings: Any, **kwargs: Any) -> tuple[torch.Tensor, None]:
        cosines, sines = position_embeddings
        return super().forward(position_embeddings=(cosines, -sines), **kwargs)


class DifferentLater(LlamaAttention):
    """Only rows that follow others tell it apart."""

    def forward(self, *, past_key_values: Any, **kwargs: Any) -> tuple[torch.Tensor, None]:
        output, _ = super().forward(past_key_values=past_key_values, **kwargs)
        return output * (1 + max(getattr(past_key_values, "positions", [0]))), None


class DifferentAtFirst(LlamaAttention):
    def forward(self, *, past_key_values: Any, **kwargs: Any) -> tuple[torch.Tensor, None]:
        output, _ = super().forward(past_key_values=past_key_values, **kwargs)
        return output * (1 if any(getattr(past_key_values, "positions", [0])) else 2), None


@pytest.mark.parametrize("kind", [Halved, Backwards, DifferentLater, DifferentAtFirst])
def test_only_the_modules_that_gave_the_same_each_time_are_replaced(tmp_path: Path, kind: type[nn.Module]) -> None:
    part = packed(tmp_path, tiny_config("llama"))
    first, second = attentions(part)
    first.__class__ = kind
    BatchedRunner(part, None, ContiguousBackend)
    assert natives(part) == [second]


def test_norms_of_queries_and_keys_that_differ_in_more_than_weights_are_left_alone(tmp_path: Path) -> None:
    part = load_part(save_sepweight(tmp_path, random_model(small_config("qwen3")).bfloat16()), "2-4")
    first, second = attentions(part)
    first.k_norm.variance_epsilon = 0.5
    pack(part)
    BatchedRunner(part, None, ContiguousBackend)
    assert natives(part) == [second]


def test_a_second_runner_of_a_part_asks_nobody_again(tmp_path: Path) -> None:
    part = packed(tmp_path, tiny_config("llama"))
    BatchedRunner(part, None, ContiguousBackend)
    before = [vars(module)["forward"] for module in natives(part)]
    BatchedRunner(part, None, ContiguousBackend)
    assert [vars(module)["forward"] for module in natives(part)] == before


def test_a_module_with_hooks_or_weights_of_its_own_is_not_asked(tmp_path: Path) -> None:
    part = packed(tmp_path, tiny_config("llama"))
    first, second = attentions(part)
    first.o_proj.register_forward_hook(lambda *_: None)
    second.bias_of_heads = nn.Parameter(torch.zeros(4))
    BatchedRunner(part, None, ContiguousBackend)
    assert not natives(part)


def test_hooks_are_gone_when_a_try_fails(tmp_path: Path) -> None:
    part = packed(tmp_path, tiny_config("llama"))

    def fail() -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        fuse_attention(part, fail)
    assert not any(each._forward_hooks for each in attentions(part))


def test_attention_that_weighs_far_rows_in_another_way_is_left_alone(tmp_path: Path) -> None:
    """From the 16384th row on Ministral 3 scales its queries by their positions."""
    part = packed(tmp_path, far_sighted(64))
    assert not natives(BatchedRunner(part, None, ContiguousBackend).part)


def test_attention_that_would_do_so_behind_the_context_is_native(tmp_path: Path) -> None:
    part = packed(tmp_path, far_sighted(512))
    assert natives(BatchedRunner(part, None, ContiguousBackend).part) == attentions(part)


def far_sighted(first_row: int) -> PretrainedConfig:
    config = small_config("ministral3")
    config.rope_parameters = {**config.rope_parameters, "original_max_position_embeddings": first_row}
    assert config.max_position_embeddings == 256
    return config
