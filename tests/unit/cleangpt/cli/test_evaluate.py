import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cleangpt.config import GPTConfig
from cleangpt.data import BlockSettings, TokenBlocks, read_texts
from cleangpt.data.blocks import joined_ids
from cleangpt.model import get_model
from cleangpt.model.folder import open_model
from cleangpt.tokenizers import create_tokenizer
from cleangpt.trainers import get_trainer

Run = Callable[..., Any]


@pytest.fixture
def model(tmp_path: Path, story: Path) -> Path:
    torch.manual_seed(0)
    tokenizer = create_tokenizer("character", texts=[story.read_text()])
    config = GPTConfig(n_layer=2, n_head=2, n_embd=8, vocab_size=tokenizer.vocab_size, block_size=32)
    get_model("SASP", config=config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_model_alone(cleangpt: Run, model: Path, story: Path, tmp_path: Path) -> None:
    numbers, plot = tmp_path / "n.json", tmp_path / "p.png"
    words = ["evaluate", model, "--data", story, "--max-batches", 2, "--json", numbers, "--plot", plot]
    ran = cleangpt(*words, "--device", "cpu")
    assert ran.code == 0, ran.err
    assert "bits per byte" in ran.out
    assert ran.out.splitlines()[-2:] == [f"numbers: {numbers}", f"plot: {plot}"]
    assert json.loads(numbers.read_text())["teacher"] is None
    assert plot.exists()


def test_the_loss_is_that_of_a_trainers_evaluate(cleangpt: Run, model: Path, story: Path, tmp_path: Path) -> None:
    words = ["evaluate", model, "--data", story, "--block-size", 16, "--json", tmp_path / "n.json", "--device", "cpu"]
    assert cleangpt(*words).code == 0
    expected = json.loads((tmp_path / "n.json").read_text())["student"]
    ids_N = joined_ids(read_texts(str(story)), create_tokenizer(str(model)))
    text = TokenBlocks(ids_N, BlockSettings(16, 8), shuffled=False)
    found = get_trainer("simple", model=open_model(model), dataloader=text).evaluate(text)
    assert found.loss == pytest.approx(expected["loss"], rel=1e-6)
    assert found.tokens == expected["tokens"] == len(ids_N) - 1


def test_beside_its_teacher_on_the_end_of_the_text(cleangpt: Run, model: Path, story: Path) -> None:
    words = ["--validation", 0.1, "--block-size", 16, "--generate-comparisons"]
    ran = cleangpt("evaluate", model, "--teacher", model, "--data", story, *words)
    assert ran.code == 0, ran.err
    assert "100.00 %" in ran.out
    assert "prompt: " in ran.out


def test_the_flags_of_the_document_under_the_names_of_this_command(
    cleangpt: Run, model: Path, story: Path, tmp_path: Path
) -> None:
    words = ["evaluate", model, "--dataset_name", tmp_path, "--dataset-config", story.name, "--generate_comparisons"]
    words += ["--teacher-model-name", model, "--num_comparison_prompts", 2, "--max_new_tokens", 40, "--device", "cpu"]
    ran = cleangpt(*words, "--output_dir", tmp_path / "results")
    assert ran.code == 0, ran.err
    found = json.loads((tmp_path / "results" / "report.json").read_text())
    assert len(found["comparisons"]) == 2
    assert found["text"] == str(story)
    assert (tmp_path / "results" / "report.png").exists()


def test_a_split_of_a_dataset_and_its_column_are_read(cleangpt: Run, model: Path, story: Path, tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    rows = {name: Dataset.from_dict({"story": [story.read_text()] * n}) for name, n in (("train", 2), ("test", 1))}
    DatasetDict(rows).save_to_disk(str(tmp_path / "stories"))
    words = ["evaluate", model, "--data", tmp_path / "stories", "--column", "story"]
    whole, test = cleangpt(*words), cleangpt(*words, "--split", "test")
    assert whole.out.splitlines()[0].split()[1] == f"{2 * len(story.read_text()) + 1:,}"
    assert test.out.splitlines()[0].split()[1] == f"{len(story.read_text()):,}"


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--data", "STORY", "--dataset-config", "en"], 2, "does not exist"),
        (["--data", "nowhere"], 1, "not a text source"),
        (["--data", "STORY", "--validation", 2], 1, "lies between 0 and 1"),
        (["--data", "STORY", "--trunk", "x:1"], 2, "for shadows"),
        (["--data", "STORY", "--block-size", 9999], 2, "blocks of 9999 are asked for"),
        ([], 2, "--data"),
    ],
)
def test_mistakes_end_in_one_line(
    cleangpt: Run, model: Path, story: Path, flags: list[object], code: int, message: str
) -> None:
    ran = cleangpt("evaluate", model, *(story if flag == "STORY" else flag for flag in flags))
    assert (ran.code, ran.err.count("\n")) == (code, 1)
    assert message in ran.err
