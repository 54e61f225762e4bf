import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llm_sepweight import Manifest, extract
from support.tiny_models import N_LAYERS, VOCABULARY

Run = Callable[..., Any]


@pytest.fixture
def weights(tiny_weights: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_weights, tmp_path / "weights"))


def rows(out: str) -> list[list[str]]:
    return [line.split() for line in out.splitlines()]


def test_the_summary_says_what_model_it_is(splitlearn: Run, tiny_weights: Path) -> None:
    ran = splitlearn("inspect", tiny_weights)

    assert ran.code == 0, ran.err
    table = rows(ran.out)
    assert ["type", "llama"] in table
    assert ["layers", str(N_LAYERS)] in table
    assert ["dtype", "float32"] in table
    assert ["hidden", "size", "64"] in table
    assert ["vocabulary", str(VOCABULARY)] in table


def test_layers_of_equal_size_share_a_row(splitlearn: Run, tiny_weights: Path) -> None:
    size = str(Manifest.read(tiny_weights).files["mid.00000"].size)

    table = rows(splitlearn("inspect", tiny_weights).out)

    last = f"mid.{N_LAYERS - 1:05d}.safetensors"
    assert ["mid.00000.safetensors", "...", last, str(N_LAYERS), "x", size, "yes"] in table
    assert [row[0] for row in table if row and row[0].endswith(".safetensors")] == [
        "begin.safetensors",
        "mid.00000.safetensors",
        "end.safetensors",
    ]


def test_a_workers_directory_shows_what_is_here_and_verifies_it(
    splitlearn: Run, tiny_weights: Path, tmp_path: Path
) -> None:
    extract(tiny_weights, tmp_path / "worker", "1-3")

    ran = splitlearn("inspect", tmp_path / "worker", "--verify")

    assert ran.code == 0, ran.err
    table = rows(ran.out)
    assert ["mid.00001.safetensors", "...", "mid.00002.safetensors"] in [row[:3] for row in table]
    assert {row[0]: row[-1] for row in table if row and row[0].endswith(".safetensors")} == {
        "begin.safetensors": "no",
        "mid.00000.safetensors": "no",
        "mid.00001.safetensors": "yes",
        "mid.00003.safetensors": "no",
        "end.safetensors": "no",
    }
    assert ran.out.splitlines()[-1] == "2 files match their digests"


def test_a_truncated_file_is_named_even_without_verify(splitlearn: Run, weights: Path) -> None:
    file = weights / "mid.00002.safetensors"
    file.write_bytes(file.read_bytes()[:-1])

    ran = splitlearn("inspect", weights)

    assert ran.code == 1
    assert "mid.00002.safetensors" in ran.err
    assert ran.err.count("\n") == 1


def test_a_damaged_file_is_named_by_verify(splitlearn: Run, weights: Path) -> None:
    file = weights / "end.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)

    assert splitlearn("inspect", weights).code == 0
    ran = splitlearn("inspect", weights, "--verify")

    assert ran.code == 1
    assert "end.safetensors" in ran.err
    assert "sha256" in ran.err


def test_tied_tensors_are_listed(splitlearn: Run, tmp_path: Path) -> None:
    from support.tiny_models import random_model, save_sepweight, tiny_config

    tied = save_sepweight(tmp_path, random_model(tiny_config("llama", tie_word_embeddings=True)))

    ran = splitlearn("inspect", tied)

    assert "end/lm_head.weight is stored as begin/embed_tokens.weight" in ran.out


def test_a_directory_of_a_named_model_says_what_it_was_made_of(splitlearn: Run, weights: Path) -> None:
    replace(Manifest.read(weights), origin={"commit": "c" * 40, "conversion": "1"}).write(weights)

    ran = splitlearn("inspect", weights, "--verify")

    assert ran.code == 0, ran.err
    assert ["commit", "c" * 40] in rows(ran.out)
    assert ["conversion", "1"] in rows(ran.out)
