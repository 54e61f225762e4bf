import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from cleangpt.errors import NotWrittenError, PackageMissingError
from cleangpt.trainers import Evaluation, History, Mlflow, Run, TensorBoard, TrainingSettings


@pytest.fixture
def run() -> Run:
    """Three steps into a training of five."""
    history = History([3.0, 2.0, 1.0], [0.1, 0.2, 0.2], [Evaluation(2, 2.5)], 300, 2.0, [0.5, 0.4, 0.3])
    return Run(nn.Linear(1, 1), TrainingSettings(max_steps=5), 5, history)


def test_tensorboard_events_hold_every_step(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = TensorBoard(tmp_path)
    board.on_begin(run)
    board.on_step(run)
    board.on_evaluation(run)
    board.on_end(run)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(each.step, each.value) for each in events.Scalars("loss")] == [(3, 1.0)]
    assert [each.value for each in events.Scalars("validation_loss")] == [2.5]
    assert [each.value for each in events.Scalars("gradient_norm")] == [pytest.approx(0.3)]


@pytest.fixture
def _mlflow_alone(mlflow_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A connection to anywhere fails, and so does the test."""
    shutil.copy(mlflow_database, tmp_path)
    tried: list[Any] = []

    def refuse(_: Any, address: Any) -> None:
        tried.append(address)
        raise OSError("no network here")

    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    yield
    assert not tried


def recorded(folder: Path) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder.resolve() / 'mlflow.db'}")
    [experiment] = [each for each in client.search_experiments() if each.name != "Default"]
    return [client, *client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])]


def values(client: Any, run: Any, name: str) -> list[tuple[int, float]]:
    return sorted((each.step, each.value) for each in client.get_metric_history(run.info.run_id, name))


def step(run: Run, tracker: Mlflow, loss: float) -> None:
    run.history.losses.append(loss)
    run.history.rates.append(0.1)
    run.history.gradient_norms.append(0.2)
    tracker.on_step(run)


@pytest.mark.usefixtures("_mlflow_alone")
def test_a_training_is_a_run_with_its_settings_and_every_step_once(run: Run, tmp_path: Path) -> None:
    run.history = History()
    tracker = Mlflow(tmp_path)
    tracker.on_begin(run)
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    for loss in (3.0, 2.0, 1.0, 0.5, 0.25):
        step(run, tracker, loss)
        if run.step == 2:
            run.history.evaluations.append(Evaluation(2, 2.5))
            tracker.on_evaluation(run)
    tracker.on_end(run)
    client, found = recorded(tmp_path)
    assert values(client, found, "loss") == [(1, 3.0), (2, 2.0), (3, 1.0), (4, 0.5), (5, 0.25)]
    assert values(client, found, "learning_rate") == [(number, 0.1) for number in range(1, 6)]
    assert values(client, found, "gradient_norm") == [(number, 0.2) for number in range(1, 6)]
    assert values(client, found, "validation_loss") == [(2, 2.5)]
    assert (found.data.params["max_steps"], found.data.params["parameters"]) == ("5", "2")
    assert (found.info.run_name, found.info.status) == (tmp_path.name, "FINISHED")


@pytest.mark.usefixtures("_mlflow_alone")
def test_a_resumed_training_goes_on_with_its_run(run: Run, tmp_path: Path) -> None:
    interrupted = Mlflow(tmp_path)
    run.history = History()
    interrupted.on_begin(run)
    for loss in (3.0, 2.0, 1.0):
        step(run, interrupted, loss)
    run.stop("SIGTERM")
    interrupted.on_end(run)
    # its last checkpoint was after two steps, and the third is trained again
    resumed, tracker = (
        Run(run.model, TrainingSettings(max_steps=9), 9, History([3.0, 2.0], [0.1] * 2)),
        Mlflow(tmp_path),
    )
    resumed.history.gradient_norms = [0.2] * 2
    tracker.on_begin(resumed)
    for loss in (1.0, 0.5):
        step(resumed, tracker, loss)
    tracker.on_end(resumed)
    client, found = recorded(tmp_path)
    assert values(client, found, "loss") == [(1, 3.0), (2, 2.0), (3, 1.0), (4, 0.5)]
    # not all of its steps were taken
    assert found.info.status == "FAILED"


@pytest.mark.usefixtures("_mlflow_alone")
def test_a_new_training_of_the_same_folder_is_a_new_run(run: Run, tmp_path: Path) -> None:
    for _ in range(2):
        run.history = History()
        tracker = Mlflow(tmp_path, experiment="mine", name="first")
        tracker.on_begin(run)
        step(run, tracker, 1.0)
        tracker.on_end(run)
    client, *found = recorded(tmp_path)
    assert [values(client, each, "loss") for each in found] == [[(1, 1.0)]] * 2
    assert client.get_experiment(found[0].info.experiment_id).name == "mine"


@pytest.mark.usefixtures("_mlflow_alone")
def test_what_mlflow_does_not_take_is_said_with_its_place(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no database at all" * 100)
    with pytest.raises(NotWrittenError, match=r"mlflow\.db did not take the run"):
        Mlflow(tmp_path).on_begin(run)


def test_an_error_shows_no_password(
    run: Run, tmp_path: Path, mlflow_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nothing://me:secret@127.0.0.1/runs")
    monkeypatch.setattr("mlflow.MlflowClient", lambda _: 1 / 0)
    with pytest.raises(NotWrittenError, match=r"MLflow at nothing://127\.0\.0\.1/runs did not take the run"):
        Mlflow(tmp_path).on_begin(run)


def test_without_the_package_the_command_that_installs_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(PackageMissingError, match=r'mlflow, sqlalchemy, alembic: pip install "splitlearn\[mlflow\]"'):
        Mlflow(tmp_path)
    with pytest.raises(PackageMissingError, match="pip install tensorboard"):
        TensorBoard(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    with pytest.raises(PackageMissingError, match="needs mlflow: pip install"):
        Mlflow(tmp_path)
