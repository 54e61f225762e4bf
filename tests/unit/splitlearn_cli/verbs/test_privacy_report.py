import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from splitlearn_privacy import report
from splitlearn_privacy.attacks.nearest_embedding import NEAREST_EMBEDDING

Run = Callable[..., Any]
DEMO = Path(__file__).parents[4] / "deploy/demo_model"
FRAMES = ("one token each", "with guesses", "with guesses, padded")


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the attack that takes no time."""
    monkeypatch.setattr(report.Grid, "attacks", (NEAREST_EMBEDDING,))
    defaults = (*report.Grid.__init__.__defaults__[:-1], (NEAREST_EMBEDDING,))  # type: ignore[index, misc]
    monkeypatch.setattr(report.Grid.__init__, "__defaults__", defaults)


TEXTS = ("--text", "stdlib-questions", "--tokens", 16, "--training-texts", 16, "--test-texts", 2)
SMALL = (*TEXTS, "--timed-texts", 0)


@pytest.mark.usefixtures("_quick")
def test_a_table_is_printed_and_all_numbers_are_written(splitlearn: Run, tmp_path: Path) -> None:
    ran = splitlearn("privacy-report", DEMO, *SMALL, "--layers", "1-5", "--layers", "2-4", "-o", tmp_path / "report")

    assert ran.code == 0, ran.err
    assert "Every share is a lower bound" in ran.out
    assert "layers 1-5, codec none, noise 0: perplexity" in ran.out
    assert "layers 2-4, codec none" in ran.out
    assert "that the observer has seen before" in ran.out
    found = json.loads((tmp_path / "report" / "report.json").read_text())
    assert [cell["layers"] for cell in found["cells"]] == ["1-5", "2-4"]
    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        "report.json",
        "leakage_by_cut.png",
        "leakage_by_utility.png",
    }


@pytest.mark.usefixtures("_quick")
def test_times_are_measured_without_an_interval_and_with_it(splitlearn: Run, tmp_path: Path) -> None:
    ran = splitlearn("privacy-report", DEMO, *TEXTS, "--timed-texts", 3, "--frame-interval", 0.02, "-o", tmp_path)

    assert ran.code == 0, ran.err
    assert "times of frames name the text, of 3 of like length" in ran.out
    assert [line.split("  ")[0] for line in ran.out.splitlines()[-6:]] == [
        *FRAMES,
        *(f"{frames}, every 20 ms" for frames in FRAMES),
    ]
    # the two services log nothing
    assert "session opened" not in ran.err
    found = json.loads((tmp_path / "report.json").read_text())["timings"]
    assert [each["setup"]["interval"] for each in found] == [0.0] * 3 + [0.02] * 3
    assert all(0 <= each["by_both"]["value"] <= 1 for each in found)


@pytest.mark.usefixtures("_quick")
def test_no_times_are_measured_where_none_are_asked_for(splitlearn: Run) -> None:
    ran = splitlearn("privacy-report", DEMO, *SMALL)

    assert ran.code == 0, ran.err
    assert "times of frames name" not in ran.out


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize(("most", "code"), [(1, 0), (0, 1)])
def test_too_much_leakage_is_an_exit_code(splitlearn: Run, most: float, code: int) -> None:
    ran = splitlearn("privacy-report", DEMO, *SMALL, "--max-leakage", most)

    assert ran.code == code
    assert ("of --max-leakage" in ran.err) == bool(code)


def test_random_weights_say_nothing_and_cannot_pass_a_limit(
    splitlearn: Run, tiny_weights: Path, tmp_path: Path
) -> None:
    for number in range(40):
        (tmp_path / f"{number}.txt").write_text(f"{number} quick brown foxes jump over the lazy dog")
    words = ("privacy-report", tiny_weights, "--text", tmp_path, "--tokens", 8)

    ran = splitlearn(*words)
    judged = splitlearn(*words, "--max-leakage", 0.5)

    assert ran.code == 0, ran.err
    assert "its weights are random, or" in ran.out
    assert judged.code == 2
    assert "--max-leakage has nothing to compare with" in judged.err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--codec", "int3"), "unknown codec 'int3'"),
        (("--noise", "-1"), "a level of noise is 0 or more"),
        (("--noise", "much"), "a level of noise is a number"),
        (("--layers", "0-3"), "leave the client none at one end"),
        (("--text", "nowhere"), "'nowhere' is not a text source"),
        (("--tokens", "4000"), "give more text"),
        (("--tokens", "4"), "no conversation comes to an answer within 4 tokens"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(splitlearn: Run, words: tuple[str, ...], reason: str) -> None:
    ran = splitlearn("privacy-report", DEMO, *SMALL, *words)

    assert ran.code != 0
    assert reason in ran.err
    assert len(ran.err.strip().splitlines()) == 1, ran.err


def test_a_file_is_no_directory_for_the_report(splitlearn: Run, tmp_path: Path) -> None:
    (tmp_path / "taken").touch()

    ran = splitlearn("privacy-report", DEMO, *SMALL, "-o", tmp_path / "taken")

    assert ran.code == 2
    assert "is a file; name a directory" in ran.err


def test_a_directory_that_cannot_be_made_is_refused_before_the_work(splitlearn: Run, tmp_path: Path) -> None:
    (tmp_path / "taken").touch()

    ran = splitlearn("privacy-report", DEMO, *SMALL, "-o", tmp_path / "taken" / "report")

    assert ran.code == 2
    assert "cannot be made (Not a directory); name another directory" in ran.err
    assert not ran.out


@pytest.mark.usefixtures("_quick")
def test_a_worker_that_has_public_weights_alone_is_named(splitlearn: Run) -> None:
    ran = splitlearn("privacy-report", DEMO, *SMALL, "--public", DEMO, "--known-pairs")

    assert ran.code == 0, ran.err
    assert "the worker has the weights of demo_model, and texts with their rows" in ran.out
    alone = splitlearn("privacy-report", DEMO, *SMALL, "--known-pairs")
    assert (alone.code, "--public" in alone.err) == (2, True)
