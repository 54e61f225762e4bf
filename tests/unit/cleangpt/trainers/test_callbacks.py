import csv
import json
from pathlib import Path

import pytest
from torch import nn

from cleangpt.trainers import (
    CurvesPlot,
    EarlyStop,
    Evaluation,
    History,
    HistoryFile,
    ProgressBar,
    Run,
    TrainingSettings,
)


@pytest.fixture
def run() -> Run:
    """Three steps into a training of five."""
    history = History([3.0, 2.0, 1.0], [0.1, 0.2, 0.2], [Evaluation(2, 2.5)], [90, 100, 110], 2.0, [0.5, 0.4, 0.3])
    return Run(nn.Linear(1, 1), TrainingSettings(max_steps=5), 5, history)


def _evaluated(run: Run, *losses: float) -> Run:
    run.history.evaluations[:] = [Evaluation(step, loss) for step, loss in enumerate(losses)]
    return run


def test_a_loss_that_keeps_falling_is_not_stopped(run: Run) -> None:
    EarlyStop(patience=2).on_evaluation(_evaluated(run, 3.0, 2.0, 2.1, 1.9))
    assert run.stopped is None


def test_a_loss_that_has_not_fallen_for_the_patience_is_stopped_with_the_reason(run: Run) -> None:
    EarlyStop(patience=2).on_evaluation(_evaluated(run, 3.0, 2.0, 2.1, 2.0))
    assert run.stopped == "the validation loss has not fallen below 2.0000 for 2 evaluations"


def test_less_than_the_least_counts_as_not_fallen(run: Run) -> None:
    EarlyStop(patience=1, least=0.1).on_evaluation(_evaluated(run, 2.0, 1.95))
    assert run.stopped is not None


def test_a_resumed_training_that_was_stopped_early_stays_stopped(run: Run) -> None:
    EarlyStop(patience=1).on_begin(_evaluated(run, 2.0, 2.1))
    assert run.stopped is not None


def test_the_first_reason_to_stop_stays(run: Run) -> None:
    run.stop("first")
    run.stop("second")
    assert run.stopped == "first"


def test_the_history_comes_back_from_json(run: Run, tmp_path: Path) -> None:
    HistoryFile(tmp_path / "new" / "history.json").on_end(run)
    found = History.from_dict(json.loads((tmp_path / "new" / "history.json").read_text()))
    assert found == run.history


def test_the_csv_has_a_line_per_step_with_the_validation_loss_where_it_was_measured(run: Run, tmp_path: Path) -> None:
    HistoryFile(tmp_path / "history.csv").on_checkpoint(run)
    with (tmp_path / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["loss"] for row in rows] == ["3.0", "2.0", "1.0"]
    assert [row["validation_loss"] for row in rows] == ["", "2.5", ""]
    assert [row["gradient_norm"] for row in rows] == ["0.5", "0.4", "0.3"]
    assert [row["tokens"] for row in rows] == ["90", "100", "110"]


def test_the_bar_shows_loss_rate_and_validation(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    bar = ProgressBar()
    bar.on_begin(run)
    run.history.losses.append(1.0)
    run.history.tokens.append(100)
    run.history.seconds = 4.0
    bar.on_step(run)
    bar.on_end(run)
    shown = capsys.readouterr().err
    assert "4/5" in shown
    assert "loss 1.0000, 50 tokens/s, validation 2.5000" in shown


def test_the_bar_shows_an_evaluation_after_the_last_step(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    bar = ProgressBar()
    bar.on_begin(run)
    bar.on_step(run)
    run.history.evaluations.append(Evaluation(3, 0.25))
    bar.on_evaluation(run)
    bar.on_end(run)
    assert "validation 0.2500" in capsys.readouterr().err


def test_the_loss_in_the_bar_is_smoothed(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    bar = ProgressBar()
    bar.on_begin(run)
    for loss in (1.0, 0.0):
        run.history.losses.append(loss)
        bar.on_step(run)
    bar.on_end(run)
    assert "loss 0.9500" in capsys.readouterr().err


def test_the_curves_are_drawn_at_the_end_and_an_empty_history_is_not(run: Run, tmp_path: Path) -> None:
    CurvesPlot(tmp_path / "curves.png").on_end(run)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    CurvesPlot(tmp_path / "none.png").on_end(Run(run.model, run.settings, 5))
    assert not (tmp_path / "none.png").exists()
