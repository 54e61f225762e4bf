"""`cleangpt train --from RUN` computes what the run computed, to the bit, or says why it does not."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

Run = Callable[..., Any]

_TINY = ("--n-layer", 1, "--n-head", 2, "--n-embd", 16, "--block-size", 16, "--batch-size", 4, "--warmup", 2)
_WORDS = ("--tokenizer-type", "character", *_TINY, "--dropout", 0.1, "--lr", 0.003, "--evaluate-every", 2)


@pytest.fixture
def trained(cleangpt: Run, story: Path, tmp_path: Path) -> Path:
    """The directory of a finished run of 6 steps."""
    out = tmp_path / "run"
    ran = cleangpt("train", "--data", story, "--out", out, *_WORDS, "--max-steps", 6)
    assert ran.code == 0, ran.err
    return out


def _record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return found


def _weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def _losses(folder: Path) -> list[float]:
    found: list[float] = json.loads((folder / "history.json").read_text())["losses"]
    return found


def test_a_run_is_repeated_to_the_bit(cleangpt: Run, trained: Path, tmp_path: Path) -> None:
    ran = cleangpt("train", "--from", trained, "--out", tmp_path / "again")
    assert ran.code == 0, ran.err
    assert f"the same as {trained}, to the bit: model.safetensors, tokenizer.json" in ran.out
    assert _weights(tmp_path / "again") == _weights(trained)
    assert _losses(tmp_path / "again") == _losses(trained)


def test_the_record_has_settings_versions_digests_and_the_command(trained: Path, story: Path) -> None:
    record = _record(trained)
    [part] = record["parts"]
    assert (part["from_step"], part["settings"]["seed"], part["settings"]["lr"]) == (0, 0, 0.003)
    assert part["settings"]["data"] == str(story)
    assert part["command"] == sys.argv
    assert part["environment"]["torch"] == torch.__version__
    assert {"python", "transformers", "code of cleangpt", "code of splitlearn", "threads"} <= set(part["environment"])
    assert {"text", "validation text", "start weights", "model"} <= set(part["made_from"])
    assert record["files"]["model.safetensors"] == hashlib.sha256(_weights(trained)).hexdigest()


def test_a_run_is_repeated_with_as_many_threads_as_then(cleangpt: Run, trained: Path, tmp_path: Path) -> None:
    n_threads = torch.get_num_threads()
    torch.set_num_threads(n_threads + 1)
    assert cleangpt("train", "--from", trained, "--out", tmp_path / "again").code == 0
    assert torch.get_num_threads() == n_threads


def test_a_run_that_was_interrupted_and_made_longer_is_repeated(cleangpt: Run, story: Path, tmp_path: Path) -> None:
    out, again = tmp_path / "run", tmp_path / "again"
    words = ("train", "--data", story, "--out", out, *_WORDS)
    assert cleangpt(*words, "--max-steps", 6).code == 0
    assert cleangpt(*words, "--max-steps", 10, "--resume").code == 0
    assert [part["from_step"] for part in _record(out)["parts"]] == [0, 6]
    ran = cleangpt("train", "--from", out, "--out", again)
    assert ran.code == 0, ran.err
    assert "to the bit" in ran.out
    assert (_losses(again), _weights(again)) == (_losses(out), _weights(out))
    # one training of the whole length has other learning rates
    assert cleangpt(*words[:3], "--out", tmp_path / "whole", *_WORDS, "--max-steps", 10).code == 0
    assert _losses(tmp_path / "whole") != _losses(out)


def test_a_run_that_only_goes_on_keeps_its_record(cleangpt: Run, trained: Path, story: Path) -> None:
    before = _record(trained)
    ran = cleangpt("train", "--data", story, "--out", trained, *_WORDS, "--max-steps", 6, "--resume")
    assert ran.code == 0, ran.err
    assert _record(trained) == before


def test_each_part_is_repeated_with_as_many_threads_as_it_had(cleangpt: Run, story: Path, tmp_path: Path) -> None:
    out, again = tmp_path / "run", tmp_path / "again"
    words = ("train", "--data", story, "--out", out, *_WORDS)
    n_threads = torch.get_num_threads()
    assert cleangpt(*words, "--max-steps", 4).code == 0
    torch.set_num_threads(n_threads + 1)
    assert cleangpt(*words, "--max-steps", 8, "--resume").code == 0
    assert cleangpt("train", "--from", out, "--out", again).code == 0
    threads = [[part["environment"]["threads"] for part in _record(each)["parts"]] for each in (out, again)]
    assert threads == [[str(n_threads), str(n_threads + 1)]] * 2


def test_a_run_of_several_lengths_has_no_other_one(cleangpt: Run, story: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ("train", "--data", story, "--out", out, *_WORDS)
    assert cleangpt(*words, "--max-steps", 2).code == 0
    assert cleangpt(*words, "--max-steps", 4, "--resume").code == 0
    ran = cleangpt("train", "--from", out, "--out", tmp_path / "again", "--max-steps", 6)
    assert (ran.code, "leave out max_steps" in ran.err) == (2, True), ran.err


def test_a_run_made_longer_before_its_end_is_repeated_from_the_step_it_had(
    cleangpt: Run, story: Path, tmp_path: Path
) -> None:
    out, again = tmp_path / "run", tmp_path / "again"
    words = ["train", "--data", str(story), "--out", str(out), *map(str, _WORDS)]
    program = [sys.executable, "-m", "cleangpt.cli", *words, "--max-steps", "5000"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    with subprocess.Popen(program, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as running:
        assert running.stderr is not None
        # the bar shows that a step is done
        while not re.search(rb" [1-9][0-9]*/5000", running.stderr.read1(4096)):
            pass
        running.send_signal(signal.SIGTERM)
        running.communicate(timeout=100)
    had = len(_losses(out))
    assert 0 < had < 5000
    assert cleangpt(*words, "--resume", "--max-steps", had + 5000, "--patience", 2).code == 0
    assert [part["from_step"] for part in _record(out)["parts"]] == [0, had]
    ran = cleangpt("train", "--from", out, "--out", again)
    assert ran.code == 0, ran.err
    assert (_losses(again), _weights(again)) == (_losses(out), _weights(out))


def test_a_repeat_that_was_interrupted_goes_on(cleangpt: Run, trained: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    assert cleangpt("train", "--from", trained, "--out", again).code == 0
    assert cleangpt("train", "--from", trained, "--out", again).code == 2
    ran = cleangpt("train", "--from", trained, "--out", again, "--resume")
    assert ran.code == 0, ran.err
    assert "to the bit" in ran.out


def test_another_text_is_refused_before_the_first_step(
    cleangpt: Run, trained: Path, story: Path, tmp_path: Path
) -> None:
    story.write_text(story.read_text().replace("dog", "god"))
    ran = cleangpt("train", "--from", trained, "--out", tmp_path / "again")
    assert ran.code == 1
    assert f"{trained} cannot be repeated: other text" in ran.err.splitlines()[-1]
    assert not (tmp_path / "again" / "model.safetensors").exists()
    assert not (tmp_path / "again" / "checkpoint" / "checkpoint.pt").exists()


def test_a_text_that_moved_may_be_named(cleangpt: Run, trained: Path, story: Path, tmp_path: Path) -> None:
    moved = story.rename(tmp_path / "moved.txt")
    assert cleangpt("train", "--from", trained, "--out", tmp_path / "lost").code == 1
    ran = cleangpt("train", "--from", trained, "--data", moved, "--out", tmp_path / "again")
    assert ran.code == 0, ran.err
    assert "to the bit" in ran.out


def test_relative_places_are_found_from_another_directory(
    cleangpt: Run, story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cleangpt("train", "--data", story.name, "--out", "run", *_WORDS, "--max-steps", 2).code == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    ran = cleangpt("train", "--from", "../run", "--out", "again")
    assert ran.code == 0, ran.err
    assert "to the bit" in ran.out


def test_a_flag_beside_it_makes_another_run_which_says_what_differs(
    cleangpt: Run, trained: Path, tmp_path: Path
) -> None:
    ran = cleangpt("train", "--from", trained, "--out", tmp_path / "again", "--lr", 0.03)
    assert ran.code == 0, ran.err
    assert f"another run than {trained}: lr was 0.003 and is now 0.03" in ran.out
    assert _losses(tmp_path / "again") != _losses(trained)
    assert _record(tmp_path / "again")["parts"][0]["settings"]["dropout"] == 0.1


def test_an_option_of_the_run_can_be_left_at_its_default(
    cleangpt: Run, trained: Path, story: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    ran = cleangpt("train", "--from", trained, "--out", again, "--unset", "max-steps,evaluate_every", "--epochs", 1)
    assert ran.code == 0, ran.err
    [part] = _record(again)["parts"]
    assert "max_steps" not in part["settings"]
    assert "evaluate_every" not in part["given"]
    assert (part["settings"]["epochs"], part["settings"]["evaluate_every"]) == (1, 200)
    # what is not the run's any more is said, and that the results differ is no error
    assert f"another run than {trained}:" in ran.out
    assert "max_steps was 6 and is now not set" in ran.out


def test_an_option_that_is_left_out_alone_makes_another_run(cleangpt: Run, story: Path, tmp_path: Path) -> None:
    words = ("train", "--data", story, *_WORDS, "--max-steps", 4, "--validation", 0.5)
    assert cleangpt(*words, "--out", tmp_path / "run").code == 0
    ran = cleangpt("train", "--from", tmp_path / "run", "--out", tmp_path / "again", "--unset", "validation")
    assert ran.code == 0, ran.err
    assert "validation was 0.5 and is now not set" in ran.out
    assert cleangpt(*words[:-2], "--out", tmp_path / "plain").code == 0
    assert _weights(tmp_path / "again") == _weights(tmp_path / "plain")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--unset", "patience"), "run.json does not set it, so leave that out"),
        (("--unset", "max-step"), "there is no option 'max-step'; did you mean max_steps?"),
        (("--unset", "lr", "--lr", 0.1), "--unset names lr, and --lr is given; leave out one of them"),
    ],
)
def test_what_cannot_be_unset_is_one_line(
    cleangpt: Run, trained: Path, tmp_path: Path, words: tuple[object, ...], message: str
) -> None:
    ran = cleangpt("train", "--from", trained, "--out", tmp_path / "again", *words)
    assert (ran.code, ran.err.count("\n"), message in ran.err) == (2, 1, True), ran.err
    assert not (tmp_path / "again").exists()


def test_nothing_can_be_unset_without_a_run(cleangpt: Run, story: Path, tmp_path: Path) -> None:
    ran = cleangpt("train", "--data", story, "--out", tmp_path / "out", "--unset", "patience")
    assert (ran.code, "--unset leaves out options of what --from names" in ran.err) == (2, True), ran.err


def test_results_that_differ_without_a_reason_end_with_exit_code_1(
    cleangpt: Run, trained: Path, tmp_path: Path
) -> None:
    record = _record(trained)
    record["files"]["model.safetensors"] = "0" * 64
    (trained / "run.json").write_text(json.dumps(record))
    ran = cleangpt("train", "--from", trained, "--out", tmp_path / "again")
    assert ran.code == 1
    assert "model.safetensors in" in ran.err
    assert "nothing that is recorded explains it" in ran.err
    record["parts"][0]["environment"]["torch"] = "2.12.0"
    (trained / "run.json").write_text(json.dumps(record))
    ran = cleangpt("train", "--from", trained, "--out", tmp_path / "more")
    assert f"torch was 2.12.0 and is now {torch.__version__}" in ran.err


def test_a_run_of_several_processes_is_repeated_by_as_many(cleangpt: Run, trained: Path, tmp_path: Path) -> None:
    record = _record(trained)
    record["parts"][0]["environment"]["processes"] = "2"
    (trained / "run.json").write_text(json.dumps(record))
    ran = cleangpt("train", "--from", trained, "--out", tmp_path / "again")
    assert ran.code == 1
    assert "torchrun --nproc-per-node 2" in ran.err


def test_start_weights_that_changed_are_refused(cleangpt: Run, trained: Path, story: Path, tmp_path: Path) -> None:
    start = shutil.copytree(trained, tmp_path / "start")
    words = ("train", "--init-from", start, "--data", story, "--max-steps", 2, "--batch-size", 4)
    assert cleangpt(*words, "--out", tmp_path / "run-2").code == 0
    assert "to the bit" in cleangpt("train", "--from", tmp_path / "run-2", "--out", tmp_path / "again").out
    assert cleangpt("train", "--from", trained, "--seed", 5, "--out", tmp_path / "other").code == 0
    shutil.copy(tmp_path / "other" / "model.safetensors", start)
    ran = cleangpt("train", "--from", tmp_path / "run-2", "--out", tmp_path / "more")
    assert (ran.code, "cannot be repeated: other start weights" in ran.err) == (1, True), ran.err


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": "cleangpt run 2", "verb": "train", "parts": [], "files": {}}',
        '{"format": "cleangpt run 2", "parts": [], "files": {}}',
        '{"format": "cleangpt run 3"}',
    ],
)
def test_a_damaged_record_is_one_line(cleangpt: Run, trained: Path, tmp_path: Path, text: str) -> None:
    (trained / "run.json").write_text(text)
    ran = cleangpt("train", "--from", trained, "--out", tmp_path / "again")
    assert (ran.code, f"{trained / 'run.json'} cannot be read" in ran.err) == (1, True), ran.err


def test_a_directory_without_a_record_is_one_line(cleangpt: Run, tmp_path: Path) -> None:
    ran = cleangpt("train", "--from", tmp_path, "--out", tmp_path / "again")
    assert (ran.code, "has no run.json" in ran.err) == (1, True)


def test_a_run_is_not_repeated_into_its_own_directory(cleangpt: Run, trained: Path) -> None:
    before = _weights(trained)
    assert cleangpt("train", "--from", trained, "--out", trained, "--resume").code == 2
    assert _weights(trained) == before
