"""Values that no training can have, and devices that are not there, end in one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]

_TINY = ("--tokenizer-type", "character", "--n-layer", 1, "--n-head", 2, "--n-embd", 16, "--batch-size", 4)


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--weight-decay", -1], 1, "weight_decay has to be a finite number of 0 or more, found -1.0"),
        (["--weight-decay", "nan"], 2, "--weight-decay has to be a finite number, found nan"),
        (["--warmup", -3], 1, "the steps of warm-up have to be a finite number of 0 or more, found -3"),
        (["--lr", "inf"], 2, "--lr has to be a finite number, found inf"),
        (["--batch-size", 10**20], 2, "--batch-size has to be below 2147483648, found 1"),
        (["--vocab-size", 10**20], 2, "--vocab-size has to be below"),
        (["--device", "nonsense"], 2, "--device nonsense is none that torch knows"),
        (["--device", "meta"], 2, "--device meta is not there: this machine has 0 devices of the type meta"),
        (["--device", "cuda:99"], 2, "--device cuda:99 is not there"),
        (["--model-type", "mpt", "--block-size", 3000], 1, "this mpt has 2048 positions, and --block-size is 3000"),
    ],
)
def test_a_training_with_wrong_values_ends_in_one_line_and_writes_nothing(
    cleangpt: Run, story: Path, tmp_path: Path, flags: list[object], code: int, message: str
) -> None:
    out = tmp_path / "out"
    ran = cleangpt("train", "--data", story, "--block-size", 16, *_TINY, "--max-steps", 1, "--out", out, *flags)
    assert (ran.code, ran.err.count("\n")) == (code, 1), ran.err
    assert message in ran.err
    assert not out.exists()


@pytest.mark.parametrize(
    "words",
    [
        ("distill", "--teacher", "MODEL", "--data", "STORY", "--out", "OUT"),
        ("evaluate", "MODEL", "--data", "STORY"),
        ("generate", "MODEL", "--prompt", "A cat"),
    ],
)
def test_a_device_that_is_not_there_is_said_by_every_verb(
    cleangpt: Run, story: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    model = tmp_path / "model"
    trained = cleangpt("train", "--data", story, "--block-size", 16, *_TINY, "--max-steps", 1, "--out", model)
    assert trained.code == 0, trained.err
    places = {"MODEL": model, "STORY": story, "OUT": tmp_path / "out"}
    ran = cleangpt(*(places.get(each, each) for each in words), "--device", "cuda:99")
    assert (ran.code, ran.err.count("\n")) == (2, 1), ran.err
    assert "--device cuda:99 is not there" in ran.err


@pytest.mark.parametrize("block_size", [1, 2, 4])
def test_a_model_of_few_positions_can_be_trained(cleangpt: Run, story: Path, tmp_path: Path, block_size: int) -> None:
    words = ("--block-size", block_size, *_TINY, "--max-steps", 1)
    ran = cleangpt("train", "--data", story, *words, "--out", tmp_path / "out")
    assert ran.code == 0, ran.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["evaluate", "MODEL", "--data", "STORY", "--validation", "nan"],
            "validation fraction is nan; it lies between",
        ),
        (["evaluate", "MODEL", "--data", "STORY", "--validation", 0], "validation fraction is 0.0"),
        (["evaluate", "MODEL", "--data", "STORY", "--validation", -0.1], "validation fraction is -0.1"),
        (["evaluate", "MODEL", "--data", "STORY", "--plot", "plot.nope"], "plot.nope: plots are not written as .nope"),
        (["tokens", "--data", "STORY", "--plot", "plot.nope"], "plot.nope: plots are not written as .nope"),
        (["accuracy", "MODEL"], "has no chat template to be asked by"),
        (
            ["distill", "--teacher", "MODEL", "--data", "STORY", "--out", "OUT", "--batch-size", 10**20],
            "below 2147483648",
        ),
        (
            ["distill", "--teacher", "MODEL", "--data", "STORY", "--out", "OUT", "--temperature", "inf"],
            "--temperature has to be a finite number, found inf",
        ),
        (
            ["distill", "--teacher", "MODEL", "--data", "STORY", "--out", "OUT", "--lr-per-block", "nan"],
            "--lr-per-block has to be a finite number, found nan",
        ),
        (["generate", "MODEL", "--prompt", "A", "--temperature", "inf"], "a finite number of 0 or more, found inf"),
    ],
)
def test_wrong_values_of_other_verbs_end_in_one_line(
    cleangpt: Run, story: Path, tmp_path: Path, words: list[object], message: str
) -> None:
    model = tmp_path / "model"
    trained = cleangpt("train", "--data", story, "--block-size", 16, *_TINY, "--max-steps", 1, "--out", model)
    assert trained.code == 0, trained.err
    places: dict[object, object] = {"MODEL": model, "STORY": story, "OUT": tmp_path / "out"}
    ran = cleangpt(*(places.get(each, each) for each in words))
    assert (ran.code in (1, 2), ran.err.count("\n")) == (True, 1), ran.err
    assert message in ran.err
