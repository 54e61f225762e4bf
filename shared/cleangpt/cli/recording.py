"""Records a training in its directory while it runs; see `run_record`."""

import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from cleangpt.cli.run_record import RUN_FILE, Part, RunRecord, digests_of_results, plain
from cleangpt.trainers import Callback, Run

NOT_RECORDED = frozenset({"out", "resume", "from_run", "given"})
"""The options that say where a run writes and how it starts, and nothing about its numbers."""


class RecordRun(Callback):
    """Writes the record when the training begins or goes on, and the digests of the results when `finish` is called."""

    def __init__(self, folder: Path, options: Any, environment: dict[str, str]) -> None:
        self._folder = folder
        self._options = options
        self._environment = environment

    def on_begin(self, run: Run) -> None:
        part = self._part(run)
        parts = RunRecord.read(self._folder).parts if run.step and (self._folder / RUN_FILE).exists() else []
        if not parts or not parts[-1].goes_on_as(part):
            RunRecord([*parts, part]).write(self._folder)

    def finish(self) -> None:
        """Adds the digests of the files that the run made. Raises NotWrittenError."""
        record = RunRecord.read(self._folder)
        replace(record, files=digests_of_results(self._folder)).write(self._folder)

    def _part(self, run: Run) -> Part:
        return Part(
            from_step=run.step,
            command=list(sys.argv),
            directory=str(Path.cwd()),
            settings=recorded_settings(self._options),
            given=sorted(self._options.given - NOT_RECORDED),
            made_from=dict(run.made_from),
            environment=self._environment,
        )


def recorded_settings(options: Any) -> dict[str, Any]:
    """The options that a record holds, as JSON does."""
    names = [each.name for each in fields(options) if each.name not in NOT_RECORDED]
    return plain({name: getattr(options, name) for name in names})
