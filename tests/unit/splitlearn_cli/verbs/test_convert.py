from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from llm_sepweight import Manifest, load
from splitlearn_cli.terminal import human_bytes
from support.gguf_files import write_gguf
from support.own_ends import LAYERS, with_other_ends
from support.tiny_models import N_LAYERS, save_checkpoint

Run = Callable[..., Any]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_llama: PreTrainedModel) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("hf") / "tiny", tiny_llama)


def test_a_checkpoint_becomes_a_directory_and_the_next_commands_are_shown(
    splitlearn: Run, checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "weights"

    ran = splitlearn("convert", checkpoint, "-o", out, "--dtype", "bfloat16")

    assert ran.code == 0, ran.err
    assert Manifest.read(out).dtype == "bfloat16"
    assert (out / "tokenizer.json").is_file()
    lines = ran.out.splitlines()
    assert lines[0].startswith(f"{out}: {N_LAYERS} layers, ")
    assert lines[1].endswith(f"splitlearn trunk {out} --layers 1-{N_LAYERS - 1}")
    assert lines[2].strip() == f"splitlearn client {out} --trunk HOST:50051"


def test_a_finished_directory_is_only_replaced_on_demand(splitlearn: Run, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "weights"
    assert splitlearn("convert", checkpoint, "-o", out).code == 0

    assert splitlearn("convert", checkpoint, "-o", out).code == 1
    assert splitlearn("convert", checkpoint, "-o", out, "--dtype", "float16", "--overwrite").code == 0
    assert Manifest.read(out).dtype == "float16"


def test_layers_of_a_converted_directory_are_copied_for_a_worker(
    splitlearn: Run, tiny_weights: Path, tmp_path: Path
) -> None:
    out = tmp_path / "worker"

    ran = splitlearn("convert", tiny_weights, "-o", out, "--layers", "1-3")

    assert ran.code == 0, ran.err
    files = {path.name for path in out.iterdir()}
    assert files == {"manifest.json", "mid.00001.safetensors", "mid.00002.safetensors"}
    copied, original = load(out, "1-3").to_dict(), load(tiny_weights, "1-3").to_dict()
    assert copied.keys() == original.keys()
    assert all(torch.equal(copied[key], original[key]) for key in copied)
    assert f"splitlearn trunk {out} --layers 1-3" in ran.out


def test_own_ends_are_converted_for_the_trunk_of_the_model_that_they_come_from(
    splitlearn: Run, tiny_llama: PreTrainedModel, tiny_weights: Path, tmp_path: Path
) -> None:
    source, out = save_checkpoint(tmp_path / "retrained", with_other_ends(tiny_llama)), tmp_path / "ends"

    ran = splitlearn("convert", source, "-o", out, "--trunk-of", tiny_weights)

    assert ran.code == 0, ran.err
    assert f"layers {LAYERS} are those of checkpoint: a trunk of them, and of no others, serves {out}" in ran.out
    assert f"splitlearn client {out} --trunk HOST:50051" in ran.out
    both = splitlearn("convert", source, "-o", tmp_path / "b", "--trunk-of", tiny_weights, "--name", "mine")
    assert (both.code, both.err.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    ("flags", "hint"),
    [
        ([], "--layers"),
        (["--layers", "1-3", "--dtype", "float16"], "--dtype"),
        (["--layers", "1-3", "--keep-int4"], "--keep-int4"),
    ],
)
def test_a_converted_directory_is_not_converted_again(
    splitlearn: Run, tiny_weights: Path, tmp_path: Path, flags: list[str], hint: str
) -> None:
    ran = splitlearn("convert", tiny_weights, "-o", tmp_path / "out", *flags)

    assert ran.code == 2
    assert hint in ran.err
    assert not (tmp_path / "out").exists()


def test_layers_of_a_checkpoint_must_be_converted_first(splitlearn: Run, checkpoint: Path, tmp_path: Path) -> None:
    ran = splitlearn("convert", checkpoint, "-o", tmp_path / "out", "--layers", "1-3")

    assert ran.code == 2
    assert "convert it first" in ran.err


def test_layers_that_the_model_lacks_are_refused_and_nothing_is_written(
    splitlearn: Run, tiny_weights: Path, tmp_path: Path
) -> None:
    ran = splitlearn("convert", tiny_weights, "-o", tmp_path / "out", "--layers", "3-9")

    assert ran.code == 1
    assert f"{N_LAYERS} layers" in ran.err
    assert not (tmp_path / "out").exists()


def test_a_source_that_is_nothing_is_named(splitlearn: Run, tmp_path: Path) -> None:
    ran = splitlearn("convert", tmp_path / "missing", "-o", tmp_path / "out")

    assert ran.code == 1
    assert "missing" in ran.err
    assert ran.err.count("\n") == 1


def test_surplus_weights_are_named_in_one_line(splitlearn: Run, tmp_path: Path, tiny_llama: PreTrainedModel) -> None:
    checkpoint = save_checkpoint(tmp_path / "hf", tiny_llama)
    state = load_file(checkpoint / "model.safetensors")
    extra = {f"vision.{i}.weight": torch.ones(1) for i in range(3)}
    save_file({**state, **extra}, checkpoint / "model.safetensors")

    ran = splitlearn("convert", checkpoint, "-o", tmp_path / "out")

    assert ran.code == 0
    assert ran.err == "left out 3 tensors that the model has no place for: vision.*.weight (3)\n"


@pytest.mark.parametrize("content", [b"", b"\x80\x02", b"version https://git-lfs.github.com/spec/v1\n", b"<html>"])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_half_and_foreign_files_end_in_one_line_that_names_them(
    splitlearn: Run, tmp_path: Path, checkpoint: Path, name: str, content: bytes
) -> None:
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    (tmp_path / "hf" / name).write_bytes(content)

    ran = splitlearn("convert", tmp_path / "hf", "-o", tmp_path / "out")

    assert ran.code == 1
    assert ran.err.startswith(f"splitlearn: error: {tmp_path / 'hf' / name}")
    assert ran.err.count("\n") == 1
    assert "bug" not in ran.err
    assert "weights_only" not in ran.err
    assert not (tmp_path / "out").exists()


def test_a_gguf_file_becomes_a_directory_in_bfloat16_beside_it(splitlearn: Run, tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "tiny-q8.gguf")

    ran = splitlearn("convert", source, "-o", tmp_path / "out")

    assert ran.code == 0
    manifest = Manifest.read(tmp_path / "out")
    assert (manifest.model_name, manifest.dtype, manifest.n_layers) == ("tiny-q8", "bfloat16", 3)
    assert (tmp_path / "out" / "tokenizer.json").is_file()


def test_weights_of_4_bits_are_kept_on_demand_and_shown(splitlearn: Run, tmp_path: Path) -> None:
    source, out = write_gguf(tmp_path / "tiny.gguf", kind=GGMLQuantizationType.Q4_0), tmp_path / "out"

    ran = splitlearn("convert", source, "-o", out, "--keep-int4")

    assert ran.code == 0
    assert ran.err.splitlines() == [
        "keeps 22 weights in 4 bits",
        "dequantised 1 weight of 4 bits, as they are of no linear layer: model.embed_tokens.weight",
    ]
    shown = splitlearn("inspect", out, "--verify")
    assert shown.code == 0
    manifest = Manifest.read(out)
    less = sum(size - manifest.files[section].size for section, size in manifest.dequantized.items())
    assert f"4 files hold weights of 4 bits, {human_bytes(less)} less than as numbers" in shown.out


def test_a_gguf_file_that_is_not_there_is_not_asked_of_the_hub(splitlearn: Run, tmp_path: Path) -> None:
    ran = splitlearn("convert", "some/model.Q4_K_M.gguf", "-o", tmp_path / "out")

    assert ran.code == 1
    assert ran.err.startswith("splitlearn: error: there is no file some/model.Q4_K_M.gguf")


@pytest.mark.parametrize("out", ["file", "file/inside"])
def test_an_output_that_cannot_be_made_is_named(splitlearn: Run, tmp_path: Path, checkpoint: Path, out: str) -> None:
    (tmp_path / "file").write_text("in the way")

    ran = splitlearn("convert", checkpoint, "-o", tmp_path / out)

    assert ran.code == 1
    assert str(tmp_path / "file") in ran.err
    assert (tmp_path / "file").read_text() == "in the way"
