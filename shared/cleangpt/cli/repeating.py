"""`--from RUN` repeats a run from its record, a training part by part, and compares what comes out."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, ClassVar

import torch

from cleangpt.cli.distill_options import DistillOptions
from cleangpt.cli.distill_options import settings_of as settings_of_distillation
from cleangpt.cli.recording import MadeFrom, all_of_it, recorded_settings
from cleangpt.cli.run_record import RUN_FILE, Part, RunRecord
from cleangpt.cli.train_options import TrainOptions, settings_of
from cleangpt.distillation.stage import of_all_stages
from cleangpt.errors import RunDiffersError, RunRecordError, UsageError
from cleangpt.trainers import Callback, Run
from cleangpt.trainers.differences import Changes, changes_between, in_words

_LENGTHS = ("epochs", "max_steps")
# what is written beside the results, and how often
_SAME_NUMBERS = {"tensorboard", "mlflow", "checkpoint_seconds"}


@dataclass(frozen=True)
class Leg:
    """A part of a training that is done in one go: up to step `until`, or to its end."""

    options: TrainOptions
    until: int | None = None


class StopAt(Callback):
    """Ends a training after a step, as somebody ended it."""

    everywhere: ClassVar[bool] = True

    def __init__(self, step: int) -> None:
        self._step = step

    def on_begin(self, run: Run) -> None:
        self.on_step(run)

    def on_step(self, run: Run) -> None:
        if run.step >= self._step:
            run.stop(f"the next part begins after step {self._step}")


class Repeat(Callback):
    """A run that is done once more. As a callback it refuses to begin with other data or weights than then.

    With other settings than then it is another run, of which it says what differs, and which it compares all the same.

    Args:
        verb: that of the command.
        options: those of the command, whose `out` is another directory than the run's.
        run: the directory of the run.
        settings: those that the run had.
        made_from: see `RecordRun`.

    Raises:
        RunRecordError: the record begins in the middle of the run.
        UsageError: both directories are the same.
    """

    everywhere: ClassVar[bool] = True

    def __init__(
        self,
        verb: str,
        options: Any,
        run: Path,
        settings: Mapping[str, Any],
        made_from: MadeFrom = all_of_it,
    ) -> None:
        self._verb = verb
        self._run = run
        self._out: Path = options.out
        self._made_from = made_from
        self._record = RunRecord.read(run, verb)
        if run.resolve() == options.out.resolve():
            raise UsageError(f"--from and --out are both {run}; write to another directory")
        if start := self._record.parts[0].from_step:
            raise RunRecordError(f"{run / RUN_FILE} begins after step {start}, so what was before is not known")
        # what is no longer set has changed too
        self._changes = changes_between(settings, {**dict.fromkeys(settings), **recorded_settings(options)})
        self._varied = in_words({name: change for name, change in self._changes.items() if name not in _SAME_NUMBERS})
        self._number = 0

    def on_begin(self, run: Run) -> None:
        changes = changes_between(self._record.parts[self._number].made_from, self._made_from(run))
        if changes and not self._varied:
            raise RunDiffersError(
                f"{self._run} cannot be repeated: {in_words(changes)}. Put back what it was made from, or give a flag "
                "that differs to make another run of it"
            )

    def result(self) -> str:
        """Whether the results are those of then, in a line. Raises RunDiffersError where they should be."""
        record = RunRecord.read(self._out, self._verb)
        then, now = self._record.files, record.files
        if not then:
            return f"{self._run} has no results to compare with: it was not finished"
        if then == now:
            return f"the same as {self._run}, to the bit: {', '.join(now)}"
        if self._varied:
            return f"another run than {self._run}: {self._varied}"
        other: Changes = {}
        for was, found in zip_longest(self._record.parts, record.parts, fillvalue=record.parts[-1]):
            other |= changes_between(was.environment, found.environment)
        reason = in_words(other) or "nothing that is recorded explains it"
        different = ", ".join(name for name in {**then, **now} if then.get(name) != now.get(name))
        raise RunDiffersError(f"{different} in {self._out} differ from those of {self._run}: {reason}")


class RepeatTraining(Repeat):
    """A training that is done once more, each part from the step that it began at.

    Raises:
        UsageError: a run of several parts is to be of another length.
        RunRecordError: see `Repeat`.
    """

    def __init__(self, options: TrainOptions, run: Path) -> None:
        super().__init__("train", options, run, settings_of(run).values)
        self._options = options
        changed = [name for name in _LENGTHS if name in self._changes]
        if changed and len(self._record.parts) > 1:
            raise UsageError(f"{run} was trained in parts of several lengths; leave out {' and '.join(changed)}")
        # read before other processes write
        self._n_done = self._parts_done()

    def legs(self) -> Iterator[Leg]:
        """The parts that are still to be done, in order; each is done before the next is asked for.

        torch gets as many threads as then.
        """
        parts = self._record.parts
        for number in range(self._n_done, len(parts)):
            self._number = number
            settings = parts[number].settings
            take_threads_of(parts[number])
            options = self._options
            if len(parts) > 1:
                options = replace(options, epochs=settings.get("epochs"), max_steps=settings.get("max_steps"))
            is_last = number == len(parts) - 1
            yield Leg(
                replace(options, resume=options.resume or number > 0),
                None if is_last else parts[number + 1].from_step,
            )

    def _parts_done(self) -> int:
        if not self._options.resume or not (self._out / RUN_FILE).exists():
            return 0
        return min(len(RunRecord.read(self._out, "train").parts), len(self._record.parts)) - 1

    def check_processes(self, n_processes: int) -> None:
        """Raises RunRecordError if the run was trained by another number of processes."""
        for part in self._record.parts:
            then = part.environment.get("processes", "1")
            if then != str(n_processes):
                raise RunRecordError(
                    f"{self._run} was trained by {then} processes, and its numbers depend on that: start it with "
                    f"torchrun --nproc-per-node {then} -m cleangpt.cli train ..."
                )


class RepeatDistillation(Repeat):
    """A distillation that is done once more, in one go and with as many threads as when it began.

    Raises UsageError, RunRecordError: see `Repeat`.
    """

    def __init__(self, options: DistillOptions, run: Path) -> None:
        super().__init__("distill", options, run, settings_of_distillation(run).values, of_all_stages)
        take_threads_of(self._record.parts[0])


def take_threads_of(part: Part) -> None:
    """Lets torch compute with as many threads as in that part of a run."""
    threads = part.environment.get("threads", "")
    if threads.isdigit():
        torch.set_num_threads(int(threads))
