"""Records a run in its directory while it is made; see `run_record`."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from cleangpt.cli.run_record import RUN_FILE, Part, RunRecord, digests_of_results, plain
from cleangpt.trainers import Callback, Run

NOT_RECORDED = frozenset({"out", "resume", "from_run", "unset", "given"})
"""The options that say where a run writes and how it starts, and nothing about its numbers."""

MadeFrom = Callable[[Run], Mapping[str, str]]
"""What a record holds of what a training's checkpoints say that it is made from."""


def all_of_it(run: Run) -> Mapping[str, str]:
    """What a training is made from, where there is one alone."""
    return run.made_from


class RecordRun(Callback):
    """Writes the record when a run begins or goes on, and the digests of the results when `finish` is called.

    A run may train several times, one stage after the other.

    Args:
        verb: that of the command.
        options: those of the command, whose `out` is the run's directory.
        environment: what the numbers may depend on beside them; see `environment`.
        results: the folder in the directory that weights and tokenizer are written to.
        made_from: what to record of each stage; it has to be the same for all.
    """

    def __init__(
        self,
        verb: str,
        options: Any,
        environment: dict[str, str],
        *,
        results: str = ".",
        made_from: MadeFrom = all_of_it,
    ) -> None:
        self._verb = verb
        self._options = options
        self._environment = environment
        self._results = results
        self._made_from = made_from
        self._steps_before = 0

    def on_begin(self, run: Run) -> None:
        folder = self._options.out
        part = self._part(run)
        parts = RunRecord.read(folder, self._verb).parts if part.from_step and (folder / RUN_FILE).exists() else []
        # a stage that was finished before computes nothing
        if not parts or (run.step < run.total_steps and not parts[-1].goes_on_as(part)):
            RunRecord(self._verb, [*parts, part]).write(folder)

    def on_end(self, run: Run) -> None:
        self._steps_before += run.step

    def finish(self) -> None:
        """Adds the digests of the files that the run made. Raises NotWrittenError."""
        folder = self._options.out
        record = RunRecord.read(folder, self._verb)
        replace(record, files=digests_of_results(folder, self._results)).write(folder)

    def _part(self, run: Run) -> Part:
        return Part(
            from_step=self._steps_before + run.step,
            command=_command(self._options),
            directory=str(Path.cwd()),
            settings=recorded_settings(self._options),
            given=sorted(self._options.given - NOT_RECORDED),
            made_from=dict(self._made_from(run)),
            environment=self._environment,
        )


def recorded_settings(options: Any) -> dict[str, Any]:
    """The options that a record holds, as JSON does, without what is secret of them."""
    return plain({each.name: _recorded(options, each) for each in fields(options) if each.name not in NOT_RECORDED})


def _recorded(options: Any, each: Any) -> Any:
    value, recorded = getattr(options, each.name), each.metadata.get("recorded")
    return value if value is None or recorded is None else recorded(value)


def _command(options: Any) -> list[str]:
    """The command line, without what is secret of it."""
    words = list(sys.argv)
    for each in fields(options):
        if each.metadata.get("recorded") and (value := getattr(options, each.name)):
            words = [word.replace(value, _recorded(options, each)) for word in words]
    return words
