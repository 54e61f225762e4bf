"""What a user may get wrong: one line says what was expected and found, and nothing is lost."""

import shutil
from pathlib import Path

import pytest
from transformers import (
    AutoTokenizer,
)

import cleangpt.model  # noqa: F401 - registers its models with the Auto classes
from support.cleangpt_workplace import SMALL, contents, run


@pytest.mark.parametrize(
    ("flags", "known"),
    [
        (["--model_type", "Vanila"], "choose one of Factored, FactoredALiBi, SASP, Vanilla"),
        (["--tokenizer_type", "charakter"], "expected bpe, character, gpt2, hugging_face, or a folder"),
        (["--data", "wikitex"], "expected a file, a folder, or one of python-documentation, stdlib-questions"),
    ],
)
def test_an_unknown_name_is_refused_with_the_known_ones(workplace: Path, flags: list[str], known: str) -> None:
    ran = run("train", "--data", "wikitext", *SMALL, "--out", "never", *flags)
    assert (ran.code, ran.err.count("\n")) == (1, 1), ran.err
    assert known in ran.err
    assert not (workplace / "never").exists()


def test_a_text_shorter_than_a_row_is_not_distilled_on(workplace: Path) -> None:
    (workplace / "short.txt").write_text("Once upon a time")
    words = ("distill", "--teacher_model_name_or_path", "gpt2", "--dataset_name", "short.txt")
    ran = run(*words, "--output_dir", "never")
    assert (ran.code, ran.err.count("\n")) == (1, 1), ran.err
    assert "a block takes 32; give more text or a smaller block_size" in ran.err
    assert not (workplace / "never").exists()


@pytest.fixture(scope="module")
def of_characters(workplace: Path) -> Path:
    """A finished training whose model reads characters."""
    words = ("train", "--data", "wikitext", "--tokenizer_type", "character", *SMALL, "--out", "of_characters")
    assert run(*words).code == 0
    return workplace / "of_characters"


def test_student_and_teacher_of_other_vocabularies_are_not_compared(of_characters: Path, workplace: Path) -> None:
    before = contents(of_characters), contents(workplace / "gpt2")
    words = ("evaluate", of_characters, "--teacher", "gpt2", "--data", "wikitext", "--json", "never.json")
    ran = run(*words)
    assert (ran.code, ran.err.count("\n")) == (1, 1), ran.err
    size = len(AutoTokenizer.from_pretrained(of_characters))
    assert f"the student's vocabulary has {size} entries, the teacher's 320" in ran.err
    assert "give the student the teacher's tokenizer" in ran.err
    assert not (workplace / "never.json").exists()
    assert (contents(of_characters), contents(workplace / "gpt2")) == before


def test_a_training_does_not_resume_from_half_a_checkpoint_and_leaves_it_there(
    of_characters: Path, workplace: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(of_characters, out)
    file = out / "checkpoint" / "checkpoint.pt"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    before = contents(out)
    words = ("train", "--data", "wikitext", "--tokenizer_type", "character", *SMALL, "--out", out, "--resume")
    ran = run(*words)
    assert (ran.code, ran.err.count("cleangpt: error: ")) == (1, 1), ran.err
    assert f"{file} ({len(whole) // 2} bytes) is not a complete checkpoint" in ran.err.splitlines()[-1]
    assert "put a good copy in its place" in ran.err.splitlines()[-1]
    assert contents(out) == before
    file.write_bytes(whole)
    assert run(*words).code == 0


def test_a_distillation_does_not_go_on_from_half_a_checkpoint_and_leaves_it_there(tmp_path: Path) -> None:
    out = tmp_path / "out"
    text = ("--dataset_name", "wikitext", "--max_samples", 8, "--student_n_embd", 16, "--output_dir", out)
    words = ("distill", "--teacher_model_name_or_path", "gpt2", *text)
    assert run(*words).code == 0
    file = out / "checkpoints" / "block_00001" / "checkpoint.pt"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1000])
    before = contents(out)
    ran = run(*words)
    assert (ran.code, ran.err.count("cleangpt: error: ")) == (1, 1), ran.err
    assert f"{file} ({len(whole) - 1000} bytes) is not a complete checkpoint" in ran.err.splitlines()[-1]
    assert contents(out) == before
    file.write_bytes(whole)
    assert run(*words).code == 0
