import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from cleangpt.data.batches import Batch, EpochBatches
from cleangpt.data.blocks import BlockSettings, TokenBlocks
from cleangpt.errors import CheckpointBrokenError, CheckpointMismatchError, TrainingDivergedError
from cleangpt.trainers import Checkpoints, Training, TrainingSettings, WarmupCosine, train
from cleangpt.trainers.checkpoint import load_best, save_best
from cleangpt.trainers.loaders import LoaderBatches, SameEveryEpoch

Make = Callable[..., PreTrainedModel]

_SETTINGS = TrainingSettings(max_steps=6, schedule=WarmupCosine(peak=1e-2, warmup=1), evaluate_every=2)


@pytest.fixture
def training(counter: Make, numbers: Any, tmp_path: Path) -> Training:
    """A finished one, with its checkpoint in tmp_path."""
    done = Training(counter(), numbers(), _SETTINGS, checkpoints=Checkpoints(tmp_path))
    train(done)
    return done


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (replace(_SETTINGS, weight_decay=0.5), "weight_decay was 0.01 and is now 0.5"),
        (replace(_SETTINGS, max_steps=8), "max_steps was 6 and is now 8"),
    ],
)
def test_the_checkpoint_of_a_training_with_other_settings_is_refused_and_kept(
    training: Training, counter: Make, tmp_path: Path, settings: TrainingSettings, said: str
) -> None:
    before = (tmp_path / "checkpoint.pt").read_bytes()
    model = counter()
    with pytest.raises(CheckpointMismatchError, match=said):
        train(replace(training, model=model, settings=settings))
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert all(torch.equal(mine, fresh) for mine, fresh in zip(model.parameters(), counter().parameters(), strict=True))


@pytest.mark.parametrize(
    ("short", "long"),
    [
        (TrainingSettings(max_steps=6), TrainingSettings(max_steps=9)),
        # 4 batches: an epoch that ends with a smaller step, and a length in the other unit
        (TrainingSettings(epochs=2, accumulate=3), TrainingSettings(epochs=3, accumulate=3)),
        (TrainingSettings(epochs=1), TrainingSettings(max_steps=7)),
    ],
)
def test_a_finished_training_goes_on_longer_and_computes_what_the_longer_one_does(
    counter: Make, numbers: Any, tmp_path: Path, short: TrainingSettings, long: TrainingSettings
) -> None:
    checkpoints = Checkpoints(tmp_path, longer=True)
    train(Training(counter(0.1), numbers(), short, checkpoints=checkpoints))
    longer = Training(counter(0.1), numbers(), long, checkpoints=checkpoints)
    history = train(longer)
    whole = Training(counter(0.1), numbers(), long)
    assert history.losses == train(whole).losses
    assert all(map(torch.equal, longer.model.parameters(), whole.model.parameters()))


def test_a_longer_training_has_the_rates_of_its_own_schedule_from_there_on(training: Training, counter: Make) -> None:
    settings, checkpoints = replace(_SETTINGS, max_steps=9), training.checkpoints or Checkpoints(Path())
    history = train(
        replace(training, model=counter(), settings=settings, checkpoints=replace(checkpoints, longer=True))
    )
    schedule = WarmupCosine(peak=1e-2, warmup=1)
    assert history.rates == [schedule.rate(step, 6 if step < 6 else 9) for step in range(9)]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (replace(_SETTINGS, max_steps=4), "max_steps was 6 and is now 4. Train"),
        (replace(_SETTINGS, max_steps=9, accumulate=2), "training: accumulate was 1 and is now 2. Train"),
    ],
)
def test_a_training_that_is_shorter_or_differs_in_more_than_its_length_does_not_go_on(
    training: Training, counter: Make, settings: TrainingSettings, said: str
) -> None:
    checkpoints = replace(training.checkpoints or Checkpoints(Path()), longer=True)
    with pytest.raises(CheckpointMismatchError, match=said):
        train(replace(training, model=counter(), settings=settings, checkpoints=checkpoints))


def _rows_of(kind: str, size: int) -> EpochBatches:
    rows_CT = (torch.arange(60)[:, None] + torch.arange(8)) % 40
    if kind == "blocks":
        return TokenBlocks(rows_CT.flatten().int(), BlockSettings(8, size))
    if kind == "loader":
        # a list of rows is no dataset to mypy, but to torch it is
        return LoaderBatches(DataLoader(list(rows_CT), batch_size=size, shuffle=True), seed=0)  # type: ignore[arg-type]
    return SameEveryEpoch([Batch(rows_BT) for rows_BT in rows_CT.split(size)])


@pytest.mark.parametrize("kind", ["blocks", "loader", "list"])
def test_another_batch_size_is_refused_by_its_name_alone(counter: Make, tmp_path: Path, kind: str) -> None:
    settings, checkpoints = TrainingSettings(max_steps=2), Checkpoints(tmp_path)
    train(Training(counter(), _rows_of(kind, 4), settings, _rows_of(kind, 4), checkpoints))
    said = r"another training: batch_size was 4 and is now 7\. Train"
    with pytest.raises(CheckpointMismatchError, match=said):
        train(Training(counter(), _rows_of(kind, 7), settings, _rows_of(kind, 7), checkpoints))


def test_the_same_rows_in_batches_of_other_sizes_are_refused(counter: Make, tmp_path: Path) -> None:
    rows_CT = (torch.arange(6)[:, None] + torch.arange(8)) % 40

    def training(*sizes: int) -> Training:
        data = SameEveryEpoch([Batch(rows_BT) for rows_BT in rows_CT.split(sizes)])
        return Training(counter(), data, TrainingSettings(max_steps=2), checkpoints=Checkpoints(tmp_path))

    train(training(1, 3, 2))
    train(training(1, 3, 2))
    with pytest.raises(CheckpointMismatchError, match=r"another training: batch_size was varying"):
        train(training(1, 2, 3))


def test_a_finished_training_is_not_taken_for_one_with_another_text(
    training: Training, counter: Make, numbers: Any
) -> None:
    """The last batch alone differs: whoever looked at the first ones would not see it."""

    class Others(numbers):
        def batches(self, epoch: int) -> list[Batch]:
            *first, last = super().batches(epoch)
            return [*first, Batch((last.ids_BT + 1) % 40)]

    with pytest.raises(CheckpointMismatchError, match="another training: other text"):
        train(replace(training, model=counter(), data=Others()))
    inexact = replace(training.checkpoints or Checkpoints(Path()), exact=False)
    with pytest.warns(UserWarning, match="another text"):
        train(replace(training, model=counter(), data=Others(), checkpoints=inexact))


def test_a_finished_training_is_not_taken_for_one_that_started_elsewhere(training: Training, counter: Make) -> None:
    other = counter()
    with torch.no_grad():
        list(other.parameters())[-1].add_(1e-3)
    with pytest.raises(CheckpointMismatchError, match="another training: other start weights"):
        train(replace(training, model=other))


def test_what_else_a_training_was_made_from_is_compared_by_name(training: Training, counter: Make) -> None:
    first = Checkpoints(
        (training.checkpoints or Checkpoints(Path())).folder / "named", {"teacher": "a", "cut": "a" * 64}
    )
    train(replace(training, model=counter(), checkpoints=first))
    other = replace(first, made_from={"teacher": "b", "cut": "b" * 64})
    with pytest.raises(CheckpointMismatchError, match="teacher was a and is now b; other cut"):
        train(replace(training, model=counter(), checkpoints=other))


def test_the_text_to_validate_on_is_compared_too(training: Training, counter: Make, numbers: Any) -> None:
    validated = replace(training, model=counter(), validation=numbers(count=1, seed=5))
    with pytest.raises(CheckpointMismatchError, match="other validation text"):
        train(validated)


def test_weights_that_are_not_finite_replace_no_checkpoint(training: Training, counter: Make, tmp_path: Path) -> None:
    before = (tmp_path / "checkpoint.pt").read_bytes()
    broken = counter()
    with torch.no_grad():
        list(broken.parameters())[-1][0] = float("inf")
    with pytest.raises(TrainingDivergedError, match=r"after step 4 the weights are no longer finite \(transformer"):
        save_best(Checkpoints(tmp_path), broken, 4)
    assert not (tmp_path / "best.pt").exists()
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


@pytest.mark.parametrize("kept", [0, 10, 2000, -1])
def test_a_checkpoint_cut_short_is_refused_and_kept(
    training: Training, counter: Make, tmp_path: Path, kept: int
) -> None:
    file = tmp_path / "checkpoint.pt"
    cut = file.read_bytes()[:kept]
    file.write_bytes(cut)
    with pytest.raises(CheckpointBrokenError, match=rf"checkpoint\.pt \({len(cut)} bytes\).*file was left as it is"):
        train(replace(training, model=counter()))
    assert file.read_bytes() == cut


@pytest.mark.parametrize("foreign", [{"model": {}}, [1, 2], {"format": "cleangpt checkpoint 1", "model": {}}])
def test_a_file_that_another_program_saved_is_refused(
    training: Training, counter: Make, tmp_path: Path, foreign: object
) -> None:
    torch.save(foreign, tmp_path / "checkpoint.pt")
    with pytest.raises(CheckpointBrokenError, match="does not say"):
        train(replace(training, model=counter()))


def test_a_checkpoint_with_wrong_bytes_in_its_pickle_is_refused_or_read(
    training: Training, counter: Make, tmp_path: Path
) -> None:
    file = tmp_path / "checkpoint.pt"
    whole = file.read_bytes()
    start = whole.index(b"data.pkl") + len(b"data.pkl")
    dice, n_refused = random.Random(5), 0
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[start + dice.randrange(400)] = dice.randrange(256)
        file.write_bytes(damaged)
        try:
            train(replace(training, model=counter()))
        except (CheckpointBrokenError, CheckpointMismatchError):
            n_refused += 1
    assert n_refused > 20


def test_text_in_the_place_of_a_checkpoint_is_refused(training: Training, counter: Make, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_text("Once upon a time")
    with pytest.raises(CheckpointBrokenError):
        train(replace(training, model=counter()))


def test_best_weights_of_another_shape_are_refused(training: Training, counter: Make, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    save_best(checkpoints, torch.nn.Linear(2, 2), 3)
    with pytest.raises(CheckpointBrokenError, match=r"best\.pt.*does not fit the model"):
        load_best(checkpoints, counter())


def test_the_best_weights_are_kept(counter: Make, numbers: Any, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    # a rate that rises beyond all reason: the last weights are worse than some before them
    settings = TrainingSettings(max_steps=12, schedule=WarmupCosine(peak=3.0, warmup=12), evaluate_every=1)
    validation = numbers(count=1, seed=8)
    training = Training(counter(), numbers(), settings, validation=validation, checkpoints=checkpoints)
    history = train(training)
    assert history.best is not None
    assert history.best.step < 12
    best = counter()
    assert load_best(checkpoints, best) == history.best.step
    measured = train(
        Training(best, numbers(), TrainingSettings(max_steps=1, schedule=WarmupCosine(1e-30, 0)), validation)
    )
    assert measured.evaluations[0].loss == pytest.approx(history.best.loss, rel=1e-5)


def test_of_equally_good_weights_the_earliest_are_kept(counter: Make, numbers: Any, tmp_path: Path) -> None:
    settings = TrainingSettings(max_steps=3, schedule=WarmupCosine(peak=1e-30, warmup=0), evaluate_every=1)
    checkpoints = Checkpoints(tmp_path)
    history = train(Training(counter(), numbers(), settings, numbers(count=1, seed=8), checkpoints))
    assert len({each.loss for each in history.evaluations}) == 1
    assert history.best is not None
    assert (load_best(checkpoints, counter()), history.best.step) == (1, 1)


_PROGRAM = """
import sys
from pathlib import Path
import torch
from transformers import AutoModelForCausalLM, GPT2Config
from cleangpt.data.batches import Batch, LazyBatches
from cleangpt.trainers import Callback, Checkpoints, Training, TrainingSettings, WarmupCosine, train

class Numbers:
    def batches(self, epoch):
        def make(index):
            return Batch(torch.randint(30, (4, 8), generator=torch.Generator().manual_seed(100 * epoch + index)))
        return LazyBatches(range(3), make)

class Waits(Callback):
    def on_checkpoint(self, run):
        print(run.step, flush=True)
        if sys.argv[2] == "wait":
            sys.stdin.readline()

torch.set_num_threads(1)
torch.manual_seed(1)
config = GPT2Config(vocab_size=30, n_positions=8, n_embd=8, n_layer=1, n_head=1, bos_token_id=None, eos_token_id=None)
model = AutoModelForCausalLM.from_config(config)
settings = TrainingSettings(max_steps=8, schedule=WarmupCosine(peak=1e-2, warmup=1))
folder = Path(sys.argv[1])
history = train(Training(model, Numbers(), settings, checkpoints=Checkpoints(folder, every_steps=1),
                         callbacks=[Waits()]))
print(history.losses, [float(each.detach().double().sum()) for each in model.parameters()])
"""


def test_a_process_that_is_killed_midway_and_started_again_computes_the_same_numbers(tmp_path: Path) -> None:
    def command(folder: str, how: str) -> list[str]:
        return [sys.executable, "-c", _PROGRAM, str(tmp_path / folder), how]

    whole = subprocess.run(command("whole", "run"), capture_output=True, text=True, check=True)
    with subprocess.Popen(command("killed", "wait"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as dying:
        assert dying.stdin is not None
        assert dying.stdout is not None
        for step in range(1, 5):
            assert dying.stdout.readline() == f"{step}\n"
            if step < 4:
                dying.stdin.write("\n")
                dying.stdin.flush()
        dying.kill()
    again = subprocess.run(command("killed", "run"), capture_output=True, text=True, check=True)
    assert again.stdout.splitlines()[0] == "5"
    assert again.stdout.splitlines()[-1] == whole.stdout.splitlines()[-1]
