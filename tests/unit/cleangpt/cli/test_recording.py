import sys
from pathlib import Path

import pytest
from torch import nn

from cleangpt.cli.distill_options import DistillOptions
from cleangpt.cli.recording import RecordRun
from cleangpt.cli.run_record import RUN_FILE, RunRecord
from cleangpt.trainers import History, Run, TrainingSettings


def _options(out: Path, trunk: str) -> DistillOptions:
    return DistillOptions(data="story.txt", out=out, shadow=True, weights=Path("weights"), trunk=trunk)


def _stage(total: int, done: int = 0) -> Run:
    history = History(losses=[1.0] * done, rates=[1.0] * done)
    return Run(nn.Linear(1, 1), TrainingSettings(max_steps=total), total, history, made_from={"text": "abc"})


@pytest.mark.parametrize("spelled", [["--trunk", "ADDRESS"], ["--trunk=ADDRESS"]])
def test_a_record_has_the_address_of_a_trunk_and_not_its_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelled: list[str]
) -> None:
    trunk = "127.0.0.1:50051#token.fingerprint"
    words = ["cleangpt", "distill", *(word.replace("ADDRESS", trunk) for word in spelled)]
    monkeypatch.setattr(sys, "argv", words)
    RecordRun("distill", _options(tmp_path, trunk), {}).on_begin(_stage(3))
    assert "token.fingerprint" not in (tmp_path / RUN_FILE).read_text()
    [part] = RunRecord.read(tmp_path, "distill").parts
    assert part.settings["trunk"] == "127.0.0.1:50051"
    assert part.command == ["cleangpt", "distill", *(word.replace("ADDRESS", "127.0.0.1:50051") for word in spelled)]


def _record(folder: Path, environment: dict[str, str], *stages: Run) -> list[int]:
    """Where the parts of a record begin after the stages ran."""
    recording = RecordRun("distill", _options(folder, "127.0.0.1:1"), environment)
    for stage in stages:
        recording.on_begin(stage)
        recording.on_end(stage)
    return [part.from_step for part in RunRecord.read(folder, "distill").parts]


def test_stages_of_one_run_are_one_part(tmp_path: Path) -> None:
    assert _record(tmp_path, {"threads": "1"}, _stage(3), _stage(4, 4), _stage(5)) == [0]


def test_a_run_that_goes_on_elsewhere_gets_a_part_from_the_first_step_that_is_computed_there(tmp_path: Path) -> None:
    _record(tmp_path, {"threads": "1"}, _stage(3))
    # the first stage was finished, and two steps of the second
    assert _record(tmp_path, {"threads": "2"}, _stage(3, 3), _stage(5, 2), _stage(4)) == [0, 5]


def test_a_run_that_was_finished_gets_no_part(tmp_path: Path) -> None:
    _record(tmp_path, {"threads": "1"}, _stage(3))
    assert _record(tmp_path, {"threads": "2"}, _stage(3, 3), _stage(5, 5)) == [0]


def test_a_run_that_starts_again_replaces_the_record(tmp_path: Path) -> None:
    _record(tmp_path, {"threads": "1"}, _stage(3))
    _record(tmp_path, {"threads": "2"}, _stage(3))
    [part] = RunRecord.read(tmp_path, "distill").parts
    assert part.environment == {"threads": "2"}
