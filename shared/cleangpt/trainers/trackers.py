"""Callbacks that record a training where runs are compared: TensorBoard and MLflow. Both need a package of an extra."""

import importlib.util
import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from cleangpt.errors import NotWrittenError, PackageMissingError
from cleangpt.trainers.callbacks import Callback, Run
from cleangpt.trainers.history import History

_FOLDER_TAG: Final = "cleangpt.folder"
# what MLflow takes in one call
_MOST_METRICS: Final = 1000
# one write to a database costs as much as many small steps
_STEPS_AT_ONCE: Final = 50


class TensorBoard(Callback):
    """Writes losses, learning rate and gradient norm as TensorBoard events. Raises PackageMissingError."""

    def __init__(self, folder: Path) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise PackageMissingError("TensorBoard events need the package tensorboard: pip install tensorboard")
        self._folder = folder
        self._writer: Any = None

    def on_begin(self, run: Run) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # discard what an interrupted run wrote after its last checkpoint
        self._writer = SummaryWriter(str(self._folder), purge_step=run.step + 1 if run.step else None)

    def on_step(self, run: Run) -> None:
        self._writer.add_scalar("loss", run.history.losses[-1], run.step)
        self._writer.add_scalar("learning_rate", run.history.rates[-1], run.step)
        self._writer.add_scalar("gradient_norm", run.history.gradient_norms[-1], run.step)

    def on_evaluation(self, run: Run) -> None:
        self._writer.add_scalar("validation_loss", run.history.evaluations[-1].loss, run.step)

    def on_end(self, run: Run) -> None:
        self._writer.close()


class Mlflow(Callback):
    """Records settings, losses, learning rate and gradient norm as a run of MLflow.

    The run goes to the server or database that MLFLOW_TRACKING_URI names, else to the file `mlflow.db` in `folder`,
    and then nothing connects to a network. The experiment is `experiment`, else MLFLOW_EXPERIMENT_NAME, else
    `cleangpt`; the run is called `name`, else like the folder. A resumed training goes on with its run, in which every
    step is once. MLflow's own telemetry is off unless MLFLOW_DISABLE_TELEMETRY says otherwise.

    Raises:
        PackageMissingError: a package is not installed.
        NotWrittenError: when it is called, MLflow does not take what is to be recorded.
    """

    def __init__(self, folder: Path, *, experiment: str | None = None, name: str | None = None) -> None:
        self._uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.resolve() / 'mlflow.db'}"
        needed = ("mlflow", "sqlalchemy", "alembic") if self._uri.startswith("sqlite:") else ("mlflow",)
        if missing := [each for each in needed if importlib.util.find_spec(each) is None]:
            raise PackageMissingError(
                f'recording with MLflow needs {", ".join(missing)}: pip install "splitlearn[mlflow]"'
            )
        self._folder = folder
        self._experiment = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "cleangpt"
        self._name = name or folder.resolve().name
        self._client: Any = None
        self._run_id = ""
        self._step, self._evaluation = 0, 0

    def on_begin(self, run: Run) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        # read when the package is imported
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        with self._recording():
            self._client = MlflowClient(self._uri)
            experiment = self._client.get_experiment_by_name(self._experiment)
            number = experiment.experiment_id if experiment else self._client.create_experiment(self._experiment)
            if not (run.step and self._found(number)):
                self._begin(number, run)

    def on_step(self, run: Run) -> None:
        if run.step - self._step >= _STEPS_AT_ONCE:
            self._record(run.history)

    def on_evaluation(self, run: Run) -> None:
        self._record(run.history)

    def on_end(self, run: Run) -> None:
        # without a run, what has failed is the beginning
        if not self._run_id:
            return
        self._record(run.history)
        is_complete = run.stopped is not None or run.step >= run.total_steps
        with self._recording():
            self._client.set_terminated(self._run_id, "FINISHED" if is_complete else "FAILED")

    def _begin(self, experiment: str, run: Run) -> None:
        from mlflow.entities import Param

        tags = {_FOLDER_TAG: str(self._folder.resolve())}
        self._run_id = self._client.create_run(experiment, tags=tags, run_name=self._name).info.run_id
        self._step, self._evaluation = 0, 0
        parameters = sum(each.numel() for each in run.model.parameters())
        values = {**run.settings.described, "parameters": str(parameters), "total_steps": str(run.total_steps)}
        self._client.log_batch(self._run_id, params=[Param(name, value) for name, value in values.items()])

    def _found(self, experiment: str) -> bool:
        """Finds the run of an interrupted training of this folder, and how much of it was recorded."""
        place = str(self._folder.resolve()).replace("'", "''")
        runs = self._client.search_runs(
            [experiment], f"tags.`{_FOLDER_TAG}` = '{place}'", max_results=1, order_by=["attributes.start_time DESC"]
        )
        if not runs:
            return False
        self._run_id = runs[0].info.run_id
        self._step, self._evaluation = (
            max((each.step for each in self._client.get_metric_history(self._run_id, name)), default=0)
            for name in ("loss", "validation_loss")
        )
        self._client.update_run(self._run_id, "RUNNING")
        return True

    def _record(self, history: History) -> None:
        """Sends what is new since the last call, and since the run was interrupted."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        named = {"loss": history.losses, "learning_rate": history.rates, "gradient_norm": history.gradient_norms}
        metrics = [
            Metric(name, values[step - 1], now, step)
            for step in range(self._step + 1, history.step + 1)
            for name, values in named.items()
        ]
        metrics += [
            Metric("validation_loss", each.loss, now, each.step)
            for each in history.evaluations
            if each.step > self._evaluation
        ]
        with self._recording():
            for start in range(0, len(metrics), _MOST_METRICS):
                self._client.log_batch(self._run_id, metrics=metrics[start : start + _MOST_METRICS])
        self._step = max(self._step, history.step)
        self._evaluation = max([self._evaluation, *(each.step for each in history.evaluations)])

    @contextmanager
    def _recording(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            # databases and servers raise what they like
            reason = " ".join(str(error).split())
            # an address may hold a password
            place = re.sub(r"//[^/@]*@", "//", self._uri)
            raise NotWrittenError(f"MLflow at {place} did not take the run ({reason})") from error
