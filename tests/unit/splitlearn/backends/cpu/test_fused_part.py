"""Shapes: T rows, D hidden size."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PretrainedConfig
from transformers.models.llama.modeling_llama import LlamaForCausalLM, LlamaModel

from architectures.small_configs import N_LAYERS, small_config
from splitlearn.backends.cpu.backend import ContiguousBackend
from splitlearn.backends.cpu.fused_layers import LayerPlan
from splitlearn.backends.cpu.fused_part import fusible
from splitlearn.backends.cpu.linear import screen
from splitlearn.model.part import Part, Wanted
from splitlearn.runner.batched import BatchedRunner
from splitlearn.runner.interface import SequenceInput
from support.fused_modules import equal, fused_modules, outputs, packed, without
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


def layers(part: Part) -> list[nn.Module]:
    return list(decoder(part).get_submodule("layers").children())


@pytest.mark.parametrize("spec", ["b 0-1", "1-4", "2-3", "4-6 e", "f"])
@pytest.mark.parametrize("name", NATIVE)
def test_every_part_gives_what_its_layers_give_to_the_bit(tmp_path: Path, name: str, spec: str) -> None:
    runner = BatchedRunner(packed(tmp_path, without_windows(name), spec=spec), None, ContiguousBackend)
    assert runner.fusion.is_decoder_fused
    found = outputs(runner)
    without(runner.part)
    assert equal(found, outputs(runner))


def test_layers_that_see_a_window_keep_the_decoders_own_forward(tmp_path: Path) -> None:
    runner = BatchedRunner(packed(tmp_path, tiny_config("mistral", sliding_window=4096)), None, ContiguousBackend)
    assert fused_modules(runner.part, LayerPlan) == layers(runner.part)
    assert not runner.fusion.is_decoder_fused


class Louder(LlamaModel):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        output.last_hidden_state = output.last_hidden_state * 2
        return output


def test_a_decoder_that_computes_something_else_is_left_alone(tmp_path: Path) -> None:
    part = packed(tmp_path, tiny_config("llama"), spec="f")
    decoder(part).__class__ = Louder
    assert not BatchedRunner(part, None, ContiguousBackend).fusion.is_decoder_fused


def test_a_decoder_with_another_kind_of_layer_is_left_alone(tmp_path: Path) -> None:
    part = packed(tmp_path, tiny_config("llama"))
    layers(part)[0].mlp.up_proj.register_forward_hook(lambda *_: None)
    assert not BatchedRunner(part, None, ContiguousBackend).fusion.is_decoder_fused


class LouderHead(LlamaForCausalLM):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        output.logits = output.logits * 2
        return output


def test_a_part_whose_logits_are_more_than_its_heads_is_left_alone(tmp_path: Path) -> None:
    part = packed(tmp_path, tiny_config("llama"), spec="2-5 e")
    part.model.__class__ = LouderHead
    fusion = BatchedRunner(part, None, ContiguousBackend).fusion
    assert (fusion.n_fused_layers, fusion.is_decoder_fused) == (3, False)


def test_a_second_runner_of_a_part_gives_the_same(tmp_path: Path) -> None:
    part = packed(tmp_path, tiny_config("llama"))
    first = BatchedRunner(part, None, ContiguousBackend)
    second = BatchedRunner(part, None, ContiguousBackend)
    assert first.fusion.is_decoder_fused
    assert second.fusion.is_decoder_fused
    assert equal(outputs(second), outputs(first))


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


def test_sessions_that_are_far_apart_have_the_positions_that_the_model_gives_them(tmp_path: Path) -> None:
    config = tiny_config("llama", max_position_embeddings=2500)
    runner = BatchedRunner(packed(tmp_path, config, spec="1-4"), None, ContiguousBackend)
    starts = (1, 1020, 2490)
    rows = torch.randn(3, 9, runner.part.hidden_size).bfloat16()

    def run() -> list[torch.Tensor]:
        kvs = [runner.new_kv(None) for _ in starts]
        for kv, start in zip(kvs, starts, strict=True):
            kv.reserve(0, start)
            for view in kv.views(0, start):
                view.fill_(0.5)
        return runner.run([SequenceInput(kv, start, own) for kv, start, own in zip(kvs, starts, rows, strict=True)])

    found = run()
    without(runner.part)
    assert equal(found, run())


def test_the_logits_of_any_rows_can_be_wanted(tmp_path: Path) -> None:
    runner = BatchedRunner(packed(tmp_path, tiny_config("llama"), spec="2-5 e"), None, ContiguousBackend)
    rows = torch.randn(4, 3, runner.part.hidden_size).bfloat16()

    def run() -> list[torch.Tensor]:
        kinds = ("last", "all", "none", "last")
        return runner.run(
            [SequenceInput(runner.new_kv(None), 0, own, how) for own, how in zip(rows, kinds, strict=True)]
        )

    found = run()
    vocabulary = runner.part.config.vocab_size
    assert [tuple(each.shape) for each in found] == [(vocabulary,), (3, vocabulary), (0, vocabulary), (vocabulary,)]
    without(runner.part)
    assert equal(found, run())


def test_where_few_logits_are_needed_a_screen_of_the_head_leaves_others_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screen, "_FEWEST_WEIGHTS", 0)
    part = packed(tmp_path, tiny_config("llama", vocab_size=4000), spec="2-5 e")
    rows = torch.randn(3, 5, part.hidden_size).bfloat16()

    def run(*kinds: Wanted, n_likeliest: int | None) -> list[torch.Tensor]:
        given = zip(rows, kinds, strict=False)
        return runner.run([SequenceInput(runner.new_kv(None), 0, own, how, n_likeliest) for own, how in given])

    runner = BatchedRunner(part, None, ContiguousBackend)
    exact = run("last", "last", n_likeliest=None)
    assert equal(run("last", "last", n_likeliest=1), exact)
    part.screens_head = True
    runner = BatchedRunner(part, None, ContiguousBackend)
    assert equal(run("last", "last", n_likeliest=None), exact)
    screened = run("last", "last", n_likeliest=1)
    assert [each.isinf().any() for each in screened] == [True, True]
    assert [each.argmax() for each in screened] == [each.argmax() for each in exact]
    assert equal([each.max() for each in screened], [each.max() for each in exact])
    # those of a prompt are for their reader
    assert not run("all", "last", n_likeliest=1)[1].isinf().any()
    assert run("none", "last", n_likeliest=1)[1].isinf().any()


def test_rows_that_are_no_longer_bf16_are_refused(tmp_path: Path) -> None:
    runner = BatchedRunner(packed(tmp_path, tiny_config("llama"), spec="1-5"), None, ContiguousBackend)
    layers(runner.part)[1].register_forward_hook(lambda _module, _args, output: output.float())
    with pytest.raises(RuntimeError, match=r"expected bf16 \[1, 9, 64\], found torch.float32"):
        outputs(runner)


def test_a_failing_try_leaves_nothing_behind(tmp_path: Path) -> None:
    runner = BatchedRunner(packed(tmp_path, tiny_config("llama")), None, ContiguousBackend)
    before = [len(layer._forward_pre_hooks) for layer in layers(runner.part)]

    def fail() -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        fusible(runner.part, fail)
    assert [len(layer._forward_pre_hooks) for layer in layers(runner.part)] == before
