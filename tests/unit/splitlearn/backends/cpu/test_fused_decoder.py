"""Shapes: T rows, D hidden size."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PretrainedConfig
from transformers.models.llama.modeling_llama import LlamaModel

from architectures.small_configs import N_LAYERS, small_config
from splitlearn.attention.ragged import RaggedCache, ragged_step
from splitlearn.backends.cpu.backend import ContiguousBackend
from splitlearn.backends.cpu.fused_decoder import FusedDecoder, fuse_decoder
from splitlearn.backends.cpu.fused_layers import LayerPlan
from splitlearn.model.part import Part
from splitlearn.runner.batched import BatchedRunner
from splitlearn.runner.interface import SequenceInput
from support.fused_modules import equal, fused_modules, outputs, packed, without
from support.steps import begin_step
from support.tiny_models import tiny_config

pytestmark = pytest.mark.usefixtures("every_set")


def without_windows(model_type: str) -> PretrainedConfig:
    config = small_config(model_type)
    config.layer_types = ["full_attention"] * N_LAYERS
    return config


# what makes the others special: norms of heads; layers without positions
NATIVE = ["llama", "qwen3", "smollm3"]


def decoder(part: Part) -> nn.Module:
    return part.model.get_submodule(part.layout.decoder)


def is_native(part: Part) -> bool:
    return isinstance(vars(decoder(part)).get("forward"), FusedDecoder)


def layers(part: Part) -> list[nn.Module]:
    return list(decoder(part).get_submodule("layers").children())


@pytest.mark.parametrize("spec", ["b 0-1", "1-4", "2-3", "4-6 e", "f"])
@pytest.mark.parametrize("name", NATIVE)
def test_every_part_gives_what_its_layers_give_to_the_bit(tmp_path: Path, name: str, spec: str) -> None:
    runner = BatchedRunner(packed(tmp_path, without_windows(name), spec=spec), None, ContiguousBackend)
    assert is_native(runner.part)
    found = outputs(runner)
    without(runner.part)
    assert equal(found, outputs(runner))


def test_layers_that_see_a_window_keep_the_decoders_own_forward(tmp_path: Path) -> None:
    runner = BatchedRunner(packed(tmp_path, tiny_config("mistral", sliding_window=4096)), None, ContiguousBackend)
    assert fused_modules(runner.part, LayerPlan) == layers(runner.part)
    assert not is_native(runner.part)


class Louder(LlamaModel):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        output.last_hidden_state = output.last_hidden_state * 2
        return output


def test_a_decoder_that_computes_something_else_is_left_alone(tmp_path: Path) -> None:
    part = packed(tmp_path, tiny_config("llama"), spec="f")
    decoder(part).__class__ = Louder
    assert not is_native(BatchedRunner(part, None, ContiguousBackend).part)


def test_a_decoder_with_another_kind_of_layer_is_left_alone(tmp_path: Path) -> None:
    part = packed(tmp_path, tiny_config("llama"))
    layers(part)[0].mlp.up_proj.register_forward_hook(lambda *_: None)
    assert not is_native(BatchedRunner(part, None, ContiguousBackend).part)


def test_a_second_runner_of_a_part_asks_nobody_again(tmp_path: Path) -> None:
    part = packed(tmp_path, tiny_config("llama"))
    BatchedRunner(part, None, ContiguousBackend)
    before = vars(decoder(part))["forward"]
    assert is_native(BatchedRunner(part, None, ContiguousBackend).part)
    assert vars(decoder(part))["forward"] is before


def test_who_looks_on_later_at_a_layer_or_into_it_sees_its_rows(tmp_path: Path) -> None:
    runner = BatchedRunner(packed(tmp_path, tiny_config("llama"), spec="1-5"), None, ContiguousBackend)
    expected, seen = outputs(runner), []
    watched = (layers(runner.part)[1], layers(runner.part)[2].mlp)
    hooks = [each.register_forward_hook(lambda _module, _args, output: seen.append(output)) for each in watched]
    assert equal(outputs(runner), expected)
    assert [tuple(rows.shape) for rows in seen[:2]] == [(1, 9, runner.part.hidden_size)] * 2
    assert len(seen) == 10
    for hook in hooks:
        hook.remove()
    assert equal(outputs(runner), expected)
    assert len(seen) == 10


def test_a_session_that_no_kernel_reads_gets_the_decoders_own_forward(tmp_path: Path) -> None:
    part = packed(tmp_path, tiny_config("llama"), spec="f")
    ids_T = torch.arange(5)
    expected_V = part(ids_T, 0, part.new_cache())
    runner = BatchedRunner(part, None, ContiguousBackend)
    assert is_native(part)
    assert torch.equal(part(ids_T, 0, part.new_cache()), expected_V)
    (found_V,) = runner.run([SequenceInput(runner.new_kv(None), 0, ids_T)])
    torch.testing.assert_close(found_V, expected_V, rtol=2**-6, atol=2**-6 * expected_V.abs().max().item())


def test_what_else_is_asked_of_a_decoder_it_does_itself(tmp_path: Path) -> None:
    runner = BatchedRunner(packed(tmp_path, tiny_config("llama"), spec="f"), None, ContiguousBackend)
    part, kv, call = runner.part, runner.new_kv(None), RaggedCache()
    begin_step(call, [(kv, 0, 3)])
    inputs = {"position_ids": torch.arange(3)[None], "past_key_values": call, "use_cache": True}
    with ragged_step(call):
        assert decoder(part)(torch.arange(3)[None], **inputs).hidden_states is None
        output = decoder(part)(torch.arange(3)[None], **inputs, output_hidden_states=True)
    assert len(output.hidden_states) == len(layers(part)) + 1


def test_rows_that_are_no_longer_bf16_are_refused(tmp_path: Path) -> None:
    runner = BatchedRunner(packed(tmp_path, tiny_config("llama"), spec="1-5"), None, ContiguousBackend)
    layers(runner.part)[1].register_forward_hook(lambda _module, _args, output: output.float())
    with pytest.raises(RuntimeError, match=r"expected bf16 \[1, 9, 64\], found torch.float32"):
        outputs(runner)


@pytest.mark.parametrize("n_tries", [0, 1])
def test_a_failing_try_leaves_nothing_behind(tmp_path: Path, n_tries: int) -> None:
    runner = BatchedRunner(packed(tmp_path, tiny_config("llama")), None, ContiguousBackend)
    part = runner.part
    without(part)
    before = [len(layer._forward_pre_hooks) for layer in layers(part)]

    def tries() -> Iterator[list[torch.Tensor]]:
        for _ in range(n_tries):
            yield outputs(runner)
        raise MemoryError

    given = tries()
    with pytest.raises(MemoryError):
        fuse_decoder(decoder(part), lambda: next(given))
    assert [len(layer._forward_pre_hooks) for layer in layers(part)] == before
    assert not is_native(part)
