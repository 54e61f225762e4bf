from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llm_sepweight import Manifest, verify
from support.tiny_models import N_LAYERS, random_model, save_checkpoint, save_sepweight, tiny_config

Run = Callable[..., Any]
FEW = ("--prompts", 2, "--tokens", 32)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog\n" * 40)
    return path


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "gpt2"])
def test_a_directory_becomes_one_in_4_bits_and_the_next_command_is_shown(
    splitlearn: Run, model_type: str, text: Path, tmp_path: Path
) -> None:
    weights, out = save_sepweight(tmp_path, random_model(tiny_config(model_type))), tmp_path / "out"

    ran = splitlearn("quantize", weights, "-o", out, "--text", text, *FEW)

    assert ran.code == 0, ran.err
    assert "weights to 4 bits; the error of outputs is 0." in ran.err
    assert ran.out.splitlines()[0].startswith(f"{out}: {N_LAYERS} layers, ")
    assert ran.out.splitlines()[1] == f"next:  splitlearn up {out} --quantization int4"
    assert len(Manifest.read(out).dequantized) >= N_LAYERS
    verify(out)
    shown = splitlearn("inspect", out, "--verify")
    assert "files hold weights of 4 bits" in shown.out


def test_python_s_documentation_is_the_text_where_none_is_given(
    splitlearn: Run, tiny_weights: Path, tmp_path: Path
) -> None:
    assert splitlearn("quantize", tiny_weights, "-o", tmp_path / "out", *FEW).code == 0


def test_groups_without_zero_points_take_less(splitlearn: Run, tiny_weights: Path, text: Path, tmp_path: Path) -> None:
    sizes = []
    for name, flags in (("zeros", ()), ("symmetric", ("--symmetric",)), ("large", ("--symmetric", "--group-size", 64))):
        ran = splitlearn("quantize", tiny_weights, "-o", tmp_path / name, "--text", text, *FEW, *flags)
        assert ran.code == 0, ran.err
        sizes.append(sum(entry.size for entry in Manifest.read(tmp_path / name).files.values()))
    assert sizes[0] > sizes[1]
    # the inner width of its MLP, 96, is no multiple of 64
    assert "their inputs are no multiple of 64" in ran.err


def test_a_finished_directory_is_only_replaced_on_demand(
    splitlearn: Run, tiny_weights: Path, text: Path, tmp_path: Path
) -> None:
    command = ("quantize", tiny_weights, "-o", tmp_path / "out", "--text", text, *FEW)
    assert splitlearn(*command).code == 0
    refused = splitlearn(*command)
    assert refused.code == 1
    assert "--overwrite" in refused.err
    assert splitlearn(*command, "--overwrite", "--symmetric").code == 0


def test_a_checkpoint_is_to_be_converted_first(splitlearn: Run, tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path / "hf", random_model(tiny_config("llama")))
    ran = splitlearn("quantize", checkpoint, "-o", tmp_path / "out")
    assert ran.code == 2
    assert f"splitlearn convert {checkpoint} -o DIR" in ran.err


def test_what_is_quantized_already_is_refused(splitlearn: Run, tiny_weights: Path, text: Path, tmp_path: Path) -> None:
    assert splitlearn("quantize", tiny_weights, "-o", tmp_path / "out", "--text", text, *FEW).code == 0
    ran = splitlearn("quantize", tmp_path / "out", "-o", tmp_path / "again", "--text", text, *FEW)
    assert ran.code == 1
    assert "4 bits already" in ran.err
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("size", [16, 48, 256])
def test_groups_of_other_sizes_are_refused(splitlearn: Run, tiny_weights: Path, size: int, tmp_path: Path) -> None:
    ran = splitlearn("quantize", tiny_weights, "-o", tmp_path / "out", "--group-size", size)
    assert ran.code == 2
    assert "--group-size" in ran.err
