"""A training that resumes reads what an uninterrupted one reads, whatever its data draws from, or says it cannot."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedModel

from cleangpt.data.batches import Batch, EpochBatches, LazyBatches
from cleangpt.errors import CheckpointMismatchError, TrainingSettingsError
from cleangpt.trainers import Callback, Checkpoints, History, Run, Training, TrainingSettings, train
from cleangpt.trainers.feed import Feed
from cleangpt.trainers.loaders import LoaderBatches
from cleangpt.trainers.random_streams import RandomStream

Make = Callable[..., PreTrainedModel]

_SETTINGS = TrainingSettings(epochs=3, accumulate=2, seed=4)
_SHARED: dict[str, Callable[[], int]] = {
    "torch": lambda: int(torch.randint(30, ())),
    "numpy": lambda: int(np.random.randint(30)),
    "random": lambda: random.randrange(30),
}


class Drawn(Dataset[Tensor]):
    """Ten rows that are drawn when they are asked for."""

    def __init__(self, draw: Callable[[], int]) -> None:
        self._draw = draw

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> Tensor:
        return torch.tensor([index, self._draw(), self._draw()])


class DrawnFromItsOwn(Drawn):
    """Of a generator that nobody else knows."""

    def __init__(self, seed: int | None = 1) -> None:
        self._own = np.random.default_rng(seed)
        super().__init__(lambda: int(self._own.integers(30)))


class Tells(DrawnFromItsOwn):
    """That tells and takes its state."""

    def state_dict(self) -> dict[str, Any]:
        return {"own": self._own.bit_generator.state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._own.bit_generator.state = state_dict["own"]


class Cannot(DrawnFromItsOwn):
    """That tells what no checkpoint holds."""

    def state_dict(self) -> dict[str, Any]:
        return {"own": self._own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        raise NotImplementedError


class Epochs:
    """The same without a DataLoader: the order and the rows of an epoch are drawn."""

    def __init__(self, rows: Drawn) -> None:
        self._rows = rows

    def batches(self, epoch: int) -> Sequence[Batch]:
        order = [self._rows[epoch][1] % 5 for _ in range(5)]
        return LazyBatches(order, lambda index: Batch(self._rows[int(index)][None]))


class EpochsThatTell(Epochs):
    """With the state of what they draw from."""

    def state_dict(self) -> dict[str, Any]:
        assert isinstance(self._rows, Tells)
        return self._rows.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        assert isinstance(self._rows, Tells)
        self._rows.load_state_dict(state_dict)


class Ends(Callback):
    """Stops a training after a step."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step(self, run: Run) -> None:
        if run.step == self._step:
            run.stop("enough")


def loader(rows: Dataset[Tensor], **more: Any) -> EpochBatches:
    return LoaderBatches(DataLoader(rows, batch_size=2, shuffle=True, **more), seed=4)


def trained(counter: Make, data: EpochBatches, **more: Any) -> History:
    return train(Training(counter(), data, **{"settings": _SETTINGS, **more}))


def in_two_runs(counter: Make, made: Callable[[], EpochBatches], checkpoints: Checkpoints, step: int) -> History:
    """Stopped after a step, and gone on with data that is made anew, as in another process."""
    trained(counter, made(), checkpoints=checkpoints, callbacks=[Ends(step)])
    # another process has drawn something else before
    torch.rand(3), np.random.rand(5), random.random()
    return trained(counter, made(), checkpoints=checkpoints)


@pytest.mark.parametrize("source", _SHARED)
@pytest.mark.parametrize("kind", ["loader", "epochs"])
@pytest.mark.parametrize("step", [2, 4])
def test_what_is_drawn_from_the_shared_sources_comes_again(
    counter: Make, tmp_path: Path, source: str, kind: str, step: int
) -> None:
    def made() -> EpochBatches:
        rows = Drawn(_SHARED[source])
        return loader(rows) if kind == "loader" else Epochs(rows)

    whole = trained(counter, made())
    assert in_two_runs(counter, made, Checkpoints(tmp_path), step).losses == whole.losses


@pytest.mark.parametrize(
    ("made", "step"),
    [
        # within the first epoch a generator with a seed is where it was
        (lambda: loader(DrawnFromItsOwn()), 4),
        (lambda: loader(DrawnFromItsOwn(seed=None)), 2),
        (lambda: Epochs(DrawnFromItsOwn()), 2),
        (lambda: Epochs(DrawnFromItsOwn()), 4),
    ],
)
def test_what_is_drawn_from_a_source_of_its_own_does_not_and_that_is_said(
    counter: Make, tmp_path: Path, made: Callable[[], EpochBatches], step: int
) -> None:
    with pytest.raises(
        CheckpointMismatchError, match=rf"(batches of step {step}|other text) .*state_dict and load_state_dict"
    ):
        in_two_runs(counter, made, Checkpoints(tmp_path), step)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.warns(UserWarning, match=rf"(batches of step {step} do not come again|another text).*goes on"):
        history = trained(counter, made(), checkpoints=Checkpoints(tmp_path, exact=False))
    assert history.step == 9
    assert (tmp_path / "checkpoint.pt").read_bytes() != before


@pytest.mark.parametrize("made", [lambda: loader(Tells()), lambda: EpochsThatTell(Tells())])
@pytest.mark.parametrize("step", [2, 4])
def test_a_source_that_tells_its_state_goes_on_where_it_was(
    counter: Make, tmp_path: Path, made: Callable[[], EpochBatches], step: int
) -> None:
    whole = trained(counter, made())
    assert in_two_runs(counter, made, Checkpoints(tmp_path), step).losses == whole.losses


def test_a_state_that_no_checkpoint_can_hold_is_refused_at_once(counter: Make) -> None:
    with pytest.raises(TrainingSettingsError, match=r"state_dict of the dataset .*plain values and tensors"):
        trained(counter, loader(Cannot()))


def test_the_rows_are_compared_with_all_that_a_batch_carries(numbers: Any) -> None:
    feed = Feed(numbers(), _SETTINGS)
    next(feed.steps())
    state = feed.state()

    class Masked:
        def batches(self, epoch: int) -> Sequence[Batch]:
            whole = numbers().batches(epoch)
            return LazyBatches(
                range(len(whole)),
                lambda index: replace(whole[index], learned_BT=torch.ones_like(whole[index].ids_BT, dtype=torch.bool)),
            )

    with pytest.raises(CheckpointMismatchError):
        Feed(Masked(), _SETTINGS).resumed(state, 1)
    assert next(Feed(numbers(), _SETTINGS).resumed(state, 1))[0].ids_BT.shape == (4, 9)


def test_a_stream_draws_the_same_whatever_is_drawn_outside_and_disturbs_nobody() -> None:
    def numbers() -> list[int]:
        return [draw() for draw in _SHARED.values()]

    stream, drawn = RandomStream(2**63 - 1), []
    for _ in range(2):
        before = torch.get_rng_state(), random.getstate()
        with stream.drawn():
            drawn.append(numbers())
        assert torch.equal(torch.get_rng_state(), before[0])
        assert random.getstate() == before[1]
        numbers()
    again = RandomStream(2**63 - 1)
    with again.drawn():
        assert [numbers(), numbers()] == drawn
