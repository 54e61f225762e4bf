"""The batches of each optimizer step, and how a resuming training gets the same ones again.

What the data draws from the global random generators (torch's, numpy's, Python's) is a function of the seed, the epoch
and the batch. What it draws from a generator of its own is not: such a source saves its state with `state_dict` and
restores it with `load_state_dict`, as torchdata's do. Resuming checks that this was enough: the batches of the last
step before the checkpoint are made again and compared.
"""

import copy
import hashlib
import io
import pickle
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from cleangpt.data.batches import Batch, EpochBatches
from cleangpt.errors import CheckpointMismatchError, EmptyDataError, TrainingSettingsError
from cleangpt.trainers.digests import description_of_batches, digest_of_batches
from cleangpt.trainers.random_streams import RandomStream
from cleangpt.trainers.settings import TrainingSettings


@runtime_checkable
class StatefulSource(Protocol):
    """Data, or a part of it, whose batches depend on more than the seed and the epoch."""

    def state_dict(self) -> dict[str, Any]:
        """The state, as plain values and tensors."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the state, so that the same batches follow as after the `state_dict` call that returned it."""
        ...


@dataclass
class FeedState:
    """The data's part of a checkpoint: the sources' states at the start of the epoch, and the last step's digest."""

    sources: dict[str, Any]
    digest: str

    @classmethod
    def from_dict(cls, found: Any) -> "FeedState":
        """The state from a checkpoint's values. Raises KeyError or TypeError if they do not describe one."""
        return cls(dict(found["sources"]), str(found["digest"]))


class Feed:
    """Yields the batches of each optimizer step, once.

    Attributes:
        epoch: of the step that was yielded last, counted from 0.
        ends_epoch: whether it is the last one of its epoch.
    """

    def __init__(self, data: EpochBatches, settings: TrainingSettings) -> None:
        self._data = data
        self._settings = settings
        self._sources = _sources_of(data)
        self._at_epoch: dict[str, Any] = {}
        self._last: Sequence[Batch] = ()
        self.epoch = 0
        self.ends_epoch = False

    def steps(self) -> Iterator[list[Batch]]:
        """The batches of each optimizer step; endless if `settings.epochs` is None."""
        return self._steps(0, {})

    def resumed(self, state: FeedState, done: int, *, exact: bool = True) -> Iterator[list[Batch]]:
        """The batches after the first `done` steps (at least one), as in an uninterrupted training.

        Args:
            exact: raise an error if the batches differ from those; otherwise only warn.

        Raises:
            CheckpointMismatchError: the data does not repeat the last step before the checkpoint.
        """
        steps = self._steps(done - 1, state.sources)
        if digest_of_batches(next(steps, [])) == state.digest:
            return steps
        said = f"the batches of step {done} do not come again as they came before the checkpoint"
        if exact:
            raise CheckpointMismatchError(
                f"{said}: the data draws random numbers of its own, or depends on what went before. Draw from torch, "
                "numpy.random or random, or give the dataset or sampler state_dict and load_state_dict; to go on with "
                "other batches than those of an uninterrupted training, give Checkpoints(exact=False)"
            )
        warnings.warn(f"{said}; the training goes on with other ones", stacklevel=2)
        return steps

    def state(self) -> FeedState:
        """The state for a checkpoint after the current step."""
        return FeedState(self._at_epoch, digest_of_batches(self._last))

    def described(self) -> dict[str, str]:
        """What a checkpoint says of the data: a digest of its text, and how that is cut into batches, by name.

        Reads all batches of the first epoch, unless the data describes itself; see `EpochBatches`.
        """
        known = getattr(self._data, "described", None)
        if isinstance(known, Mapping):
            return dict(known)
        states = {name: _plain(name, source.state_dict()) for name, source in self._sources.items()}
        batches = self._epoch(0)
        found = description_of_batches(self._batch(batches, 0, index) for index in range(len(batches)))
        for name, source in self._sources.items():
            source.load_state_dict(states[name])
        return found

    def total_steps(self) -> int:
        """How many optimizer steps the training takes if nothing stops it."""
        settings = self._settings
        if settings.max_steps is not None:
            return settings.max_steps
        return sum(-(-len(self._epoch(epoch)) // settings.accumulate) for epoch in range(settings.epochs or 0))

    def _epoch(self, number: int) -> Sequence[Batch]:
        with RandomStream(_seed(self._settings.seed, number)).drawn():
            batches = self._data.batches(number)
        if not batches:
            raise EmptyDataError(f"epoch {number} of the training data has no batches; give it at least one row")
        return batches

    def _batch(self, batches: Sequence[Batch], epoch: int, index: int) -> Batch:
        with RandomStream(_seed(self._settings.seed, epoch, index)).drawn():
            return batches[index]

    def _steps(self, done: int, sources: dict[str, Any]) -> Iterator[list[Batch]]:
        """The steps after the first `done`. `sources` holds their states at the start of the first step's epoch."""
        size, epoch = self._settings.accumulate, 0
        while self._settings.epochs is None or epoch < self._settings.epochs:
            at_epoch = {name: _plain(name, source.state_dict()) for name, source in self._sources.items()}
            batches = self._epoch(epoch)
            starts = range(0, len(batches), size)
            if done < len(starts):
                if sources:
                    at_epoch, batches, sources = sources, self._again(sources, epoch, done * size), {}
                self._at_epoch = at_epoch
            for start in starts[done:]:
                stop = min(start + size, len(batches))
                self._last = [self._batch(batches, epoch, index) for index in range(start, stop)]
                self.epoch, self.ends_epoch = epoch, stop == len(batches)
                yield list(self._last)
            done = max(0, done - len(starts))
            epoch += 1

    def _again(self, states: dict[str, Any], epoch: int, count: int) -> Sequence[Batch]:
        """The epoch's batches, after making the first `count` of them, since each advances the sources' states."""
        for name, source in self._sources.items():
            if name in states:
                source.load_state_dict(copy.deepcopy(states[name]))
        batches = self._epoch(epoch)
        for index in range(count):
            self._batch(batches, epoch, index)
        return batches


def _sources_of(data: EpochBatches) -> dict[str, StatefulSource]:
    candidates: Mapping[str, object] = {"data": data, **getattr(data, "sources", {})}
    return {name: each for name, each in candidates.items() if isinstance(each, StatefulSource)}


def _seed(*numbers: int) -> int:
    # a generator takes signed 64 bits
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:8]) >> 1


def _plain(name: str, state: Any) -> Any:
    """A copy of the state as a checkpoint would return it. Raises TrainingSettingsError if it cannot be stored."""
    stored = io.BytesIO()
    try:
        torch.save(state, stored)
        stored.seek(0)
        return torch.load(stored, weights_only=True)
    except (pickle.PickleError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise TrainingSettingsError(
            f"state_dict of the {name} of the training data holds values that a checkpoint cannot store; "
            "give plain values and tensors"
        ) from error
