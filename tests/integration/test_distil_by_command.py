"""`cleangpt distill --trunk` and `cleangpt evaluate --trunk`: the trunk's layers are at an address, not here."""

from pathlib import Path

import pytest

from cleangpt.cli.__main__ import main
from support.running_split import RunningTrunk, free_port


@pytest.fixture
def story(tmp_path: Path) -> Path:
    (tmp_path / "story.txt").write_text("A cat sat on a mat. The dog saw it. " * 30)
    return tmp_path / "story.txt"


def test_a_shadow_of_a_trunk_elsewhere_is_fitted_and_measured(
    thread_trunk: RunningTrunk, client_weights: Path, story: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["--weights", str(client_weights), "--trunk", thread_trunk.address, "--data", str(story)]
    assert main(["distill", "--shadow", *words, "--out", str(out), "--block-size", "32"]) == 0
    assert f"--trunk {thread_trunk.address}" in capsys.readouterr().out
    where = ["--teacher", str(client_weights), "--trunk", thread_trunk.address, "--data", str(story)]
    assert main(["evaluate", str(out / "shadow"), *where, "--max-batches", "1"]) == 0
    assert "top-1 agreement" in capsys.readouterr().out


def test_an_unreachable_address_is_one_line(
    client_weights: Path, story: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--weights", str(client_weights), "--trunk", f"127.0.0.1:{free_port()}", "--data", str(story)]
    assert main(["distill", "--shadow", *words, "--trunk-wait", "0", "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_trunk_of_another_cut_is_refused_with_both_fingerprints(
    thread_trunk: RunningTrunk, client_weights: Path, story: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--weights", str(client_weights), "--trunk", thread_trunk.address, "--data", str(story)]
    assert main(["distill", "--shadow", *words, "--layers", "1-3", "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "1-3" in error
    assert "1-4" in error
