"""The fast path is not only right: on a machine that has it, it is taken."""

import logging
import shutil
from pathlib import Path

import pytest
import torch
from transformers import PretrainedConfig

from architectures.small_configs import small_config
from splitlearn.attention.backend import FusionReport
from splitlearn.backends.cpu.kernels import are_off, kernels
from splitlearn.build import build_engine
from splitlearn.checkpoints.load import load_part
from splitlearn.engine import DeviceThread
from splitlearn.runner.interface import SequenceInput
from splitlearn.runner.select import runner_for
from support.fused_modules import packed
from support.tiny_models import tiny_config

can_run = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512") or shutil.which("cc") is None or are_off(),
    reason="no AVX2 with FMA, or no C compiler at installation, or SPLITLEARN_KERNELS=off",
)


@can_run
def test_the_kernels_are_compiled_and_loaded_where_the_processor_has_their_instructions() -> None:
    assert kernels() is not None


@can_run
@pytest.mark.parametrize("quantization", ["none", "int8", "int4"])
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_whole_layers_and_the_whole_decoder_run_by_our_kernels(kind: str, quantization: str, tmp_path: Path) -> None:
    part = packed(tmp_path, tiny_config(kind), quantization, spec="1-4")
    assert runner_for(part).fusion == FusionReport(3, 3, 3, is_decoder_fused=True)


@can_run
@pytest.mark.parametrize("quantization", ["none", "int8"])
@pytest.mark.parametrize(
    "config", [tiny_config("mixtral"), small_config("qwen3_moe")], ids=lambda each: each.model_type
)
def test_attention_and_experts_run_by_our_kernels(config: PretrainedConfig, quantization: str, tmp_path: Path) -> None:
    part = packed(tmp_path, config, quantization, spec="1-3")
    fusion = runner_for(part).fusion
    assert fusion == FusionReport(2, 2, n_experts=2, n_fused_experts=2)
    assert str(fusion) == "fused 0/2 layers, attention of 2/2, decoder no, experts of 2/2"


@can_run
def test_a_fused_decoder_gives_the_hidden_states_that_its_head_gets(tmp_path: Path) -> None:
    top = packed(tmp_path, tiny_config("llama"), spec="2-5 e")
    runner, seen = runner_for(top), []
    assert runner.fusion == FusionReport(3, 3, 3, is_decoder_fused=True)
    rows_TD = torch.randn(9, top.hidden_size).to(top.dtype)
    kvs = [runner.new_kv(None) for _ in range(3)]
    hook = top.model.get_submodule("model.norm").register_forward_hook(lambda *given: seen.append(given[2]))
    hidden_TD, logits_V, other_TD = runner.run(
        [SequenceInput(kv, 0, rows_TD, wanted) for kv, wanted in zip(kvs, ("hidden", "last", "hidden"), strict=True)]
    )
    hook.remove()
    assert torch.equal(torch.cat([hidden_TD, other_TD]), torch.cat([seen[0][0, :9], seen[0][0, 18:]]))
    head = top.model.get_submodule("lm_head")
    torch.testing.assert_close(head(hidden_TD[-1:].clone())[0], logits_V, atol=1e-2, rtol=1e-2)


@can_run
def test_an_engine_logs_what_is_fused_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    part = packed(tmp_path, tiny_config("llama"), spec="1-4")
    with caplog.at_level(logging.INFO, "splitlearn.build"), DeviceThread() as thread:
        build_engine(part, thread)
    lines = [record.getMessage() for record in caplog.records if record.name == "splitlearn.build"]
    assert lines == ["part 1-4 runs batched on cpu, fused 3/3 layers, attention of 3/3, decoder yes"]


def test_a_part_in_fp32_says_that_nothing_is_fused(tiny_weights: Path) -> None:
    assert str(runner_for(load_part(tiny_weights, "1-4")).fusion) == "fused 0/3 layers, attention of 0/3, decoder no"


@can_run
@pytest.mark.parametrize(
    ("kind", "speculation"),
    [("llama", "exact"), ("gemma2", "exact"), ("falcon", "rounded"), ("mixtral", "rounded")],
)
def test_a_row_s_bits_stay_beside_guesses_where_whole_layers_run_by_our_kernels(
    kind: str, speculation: str, tmp_path: Path
) -> None:
    part = packed(tmp_path, tiny_config(kind), spec="1-4")
    with DeviceThread() as thread:
        assert build_engine(part, thread).speculation == speculation


def test_in_fp32_a_row_may_be_rounded_otherwise_beside_guesses(tiny_weights: Path) -> None:
    with DeviceThread() as thread:
        assert build_engine(load_part(tiny_weights, "1-4"), thread).speculation == "rounded"
