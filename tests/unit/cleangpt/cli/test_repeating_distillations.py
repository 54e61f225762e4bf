"""`cleangpt distill --from RUN` computes what the run computed, to the bit, or says why it does not."""

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cleangpt.config import GPTConfig
from cleangpt.model import get_model
from cleangpt.tokenizers import create_tokenizer

Run = Callable[..., Any]


@pytest.fixture
def teacher(tmp_path: Path, story: Path) -> Path:
    torch.manual_seed(0)
    tokenizer = create_tokenizer("character", texts=[story.read_text()])
    config = GPTConfig(n_layer=2, n_head=2, n_embd=16, vocab_size=tokenizer.vocab_size, block_size=32)
    get_model("Vanilla", config=config).save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    return tmp_path / "teacher"


@pytest.fixture
def words(teacher: Path, story: Path) -> tuple[object, ...]:
    small = ("--student-n-embd", 8, "--student-dropout", 0.1, "--lr-per-block", "2e-3,1e-3", "--batch-size", 32)
    return ("distill", "--teacher", teacher, "--data", story, *small)


@pytest.fixture
def distilled(cleangpt: Run, words: tuple[object, ...], tmp_path: Path) -> Path:
    ran = cleangpt(*words, "--out", tmp_path / "run")
    assert ran.code == 0, ran.err
    return tmp_path / "run"


def _record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return found


def _student(folder: Path) -> bytes:
    return (folder / "student" / "model.safetensors").read_bytes()


def _losses(folder: Path) -> list[list[float]]:
    found = json.loads((folder / "history.json").read_text())
    return [stage["losses"] for stage in (*found["blocks"], found["head"])]


def test_a_distillation_is_repeated_to_the_bit(cleangpt: Run, distilled: Path, tmp_path: Path) -> None:
    ran = cleangpt("distill", "--from", distilled, "--out", tmp_path / "again")
    assert ran.code == 0, ran.err
    assert f"the same as {distilled}, to the bit: student/model.safetensors, student/tokenizer.json" in ran.out
    assert (_student(tmp_path / "again"), _losses(tmp_path / "again")) == (_student(distilled), _losses(distilled))


def test_the_record_has_settings_versions_digests_and_the_command(distilled: Path, teacher: Path, story: Path) -> None:
    record = _record(distilled)
    [part] = record["parts"]
    assert (record["verb"], part["from_step"], part["command"]) == ("distill", 0, sys.argv)
    assert {"data": str(story), "teacher": str(teacher), "lr_per_block": [2e-3, 1e-3], "seed": 0}.items() <= part[
        "settings"
    ].items()
    assert {"torch", "code of cleangpt", "threads"} <= part["environment"].keys()
    assert {"text", "validation text", "teacher's weights", "student's start weights"} <= part["made_from"].keys()
    # of one stage alone
    assert not {"stage", "start weights", "schedule"} & part["made_from"].keys()
    assert record["files"]["student/model.safetensors"] == hashlib.sha256(_student(distilled)).hexdigest()


def test_the_same_command_again_leaves_the_record(cleangpt: Run, distilled: Path, words: tuple[object, ...]) -> None:
    before = _record(distilled)
    assert cleangpt(*words, "--out", distilled).code == 0
    assert _record(distilled) == before


def test_a_distillation_that_went_on_with_other_threads_is_compared_and_says_so(
    cleangpt: Run, distilled: Path, words: tuple[object, ...], tmp_path: Path
) -> None:
    # as if it had been killed before the head
    shutil.rmtree(distilled / "checkpoints" / "head")
    torch.set_num_threads(torch.get_num_threads() + 1)
    assert cleangpt(*words, "--out", distilled).code == 0
    parts = _record(distilled)["parts"]
    steps = [len(losses) for losses in _losses(distilled)]
    assert [part["from_step"] for part in parts] == [0, steps[0] + steps[1]]
    assert [int(part["environment"]["threads"]) for part in parts] == [1, 2]
    record = _record(distilled)
    record["files"]["student/model.safetensors"] = "0" * 64
    (distilled / "run.json").write_text(json.dumps(record))
    ran = cleangpt("distill", "--from", distilled, "--out", tmp_path / "again")
    assert (ran.code, "threads was 2 and is now 1" in ran.err) == (1, True), ran.err
    assert torch.get_num_threads() == 1


def test_another_teacher_or_text_is_refused_before_the_first_step(
    cleangpt: Run, distilled: Path, teacher: Path, story: Path, tmp_path: Path
) -> None:
    content = story.read_text()
    story.write_text(content.replace("dog", "god"))
    ran = cleangpt("distill", "--from", distilled, "--out", tmp_path / "again")
    assert (ran.code, f"{distilled} cannot be repeated: other text" in ran.err) == (1, True), ran.err
    story.write_text(content)
    torch.manual_seed(9)
    config = GPTConfig(
        n_layer=2, n_head=2, n_embd=16, vocab_size=create_tokenizer(str(teacher)).vocab_size, block_size=32
    )
    get_model("Vanilla", config=config).save_pretrained(teacher)
    ran = cleangpt("distill", "--from", distilled, "--out", tmp_path / "more")
    assert (ran.code, "cannot be repeated: other teacher's weights" in ran.err) == (1, True), ran.err
    assert [file.parts[-4] for file in tmp_path.glob("*/checkpoints/block_00000/checkpoint.pt")] == ["run"]


def test_a_flag_beside_it_makes_another_one_and_an_option_can_be_left_out(
    cleangpt: Run, distilled: Path, tmp_path: Path
) -> None:
    flags = ("--unset", "lr-per-block", "--logit-loss-type", "mse")
    ran = cleangpt("distill", "--from", distilled, "--out", tmp_path / "again", *flags)
    assert ran.code == 0, ran.err
    assert "lr_per_block was [0.002, 0.001] and is now [0.001]" in ran.out
    assert "logit_loss_type was kl_div and is now mse" in ran.out
    settings = _record(tmp_path / "again")["parts"][0]["settings"]
    assert (settings["student_n_embd"], settings["lr_per_block"]) == (8, [1e-3])


def test_relative_places_are_found_from_another_directory(
    cleangpt: Run, words: tuple[object, ...], story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cleangpt("distill", "--teacher", "teacher", "--data", story.name, *words[5:], "--out", "run").code == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    ran = cleangpt("distill", "--from", "../run", "--out", "again")
    assert ran.code == 0, ran.err
    assert "to the bit" in ran.out


def test_a_record_is_repeated_by_the_verb_that_wrote_it(cleangpt: Run, distilled: Path, tmp_path: Path) -> None:
    ran = cleangpt("train", "--from", distilled, "--out", tmp_path / "again")
    assert (ran.code, "repeat it with cleangpt distill --from" in ran.err) == (1, True), ran.err


def test_it_is_not_repeated_into_its_own_directory(cleangpt: Run, distilled: Path) -> None:
    assert cleangpt("distill", "--from", distilled, "--out", distilled).code == 2


def test_a_shadow_is_repeated_to_the_bit(cleangpt: Run, tiny_weights: Path, story: Path, tmp_path: Path) -> None:
    shape = ("--student-n-embd", 16, "--student-n-layer", 2, "--block-size", 32)
    words = ("distill", "--shadow", "--weights", tiny_weights, "--data", story, *shape)
    assert cleangpt(*words, "--out", tmp_path / "run").code == 0
    ran = cleangpt("distill", "--from", tmp_path / "run", "--out", tmp_path / "again")
    assert ran.code == 0, ran.err
    assert "to the bit: shadow/model.safetensors" in ran.out
