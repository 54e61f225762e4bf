import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from cleangpt.data.batches import Batch, LazyBatches
from cleangpt.data.conversations import ConversationRows, Row, padded
from cleangpt.data.stdlib_questions import Question
from cleangpt.errors import EmptyDataError, TrainingDivergedError
from cleangpt.evaluation.accuracy import measure_accuracy
from cleangpt.trainers import Callback, Checkpoints, Run, Training, TrainingSettings, WarmupStableDecay, train
from cleangpt.trainers.loop import adamw
from cleangpt.trainers.objective import learned_count, learned_loss

Make = Callable[..., PreTrainedModel]

_SCHEDULE = WarmupStableDecay(peak=1e-2, warmup=2, decay=0.5)
_SHORT = TrainingSettings(epochs=3, schedule=_SCHEDULE)


class _Notes(Callback):
    """What it was told, with the step after which it was."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []

    def on_begin(self, run: Run) -> None:
        self.told.append(("begin", run.step))

    def on_evaluation(self, run: Run) -> None:
        self.told.append(("evaluation", run.step))

    def on_checkpoint(self, run: Run) -> None:
        self.told.append(("checkpoint", run.step))

    def on_end(self, run: Run) -> None:
        self.told.append(("end", run.step))


class _Ends(Callback):
    """Wants the training to end after a step."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step(self, run: Run) -> None:
        if run.step == self._step:
            run.stop("enough")


@dataclass(frozen=True)
class _None:
    def batches(self, epoch: int) -> Sequence[Batch]:
        return ()


@dataclass(frozen=True)
class _Given:
    given: tuple[Batch, ...]

    def batches(self, epoch: int) -> Sequence[Batch]:
        return self.given


def test_three_answers_are_memorised(
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    three_rows: ConversationRows,
    three_questions: tuple[Question, ...],
) -> None:
    settings = replace(_SHORT, epochs=60, bf16_autocast=True)
    losses = train(Training(tiny_model, three_rows, settings)).losses
    assert losses[0] > 4
    assert losses[-1] < 0.1
    assert not tiny_model.training
    assert measure_accuracy(tiny_model, tiny_tokenizer, three_questions).misses == ()
    cut_short = replace(three_questions[0], answer="Turn to")
    [miss] = measure_accuracy(tiny_model, tiny_tokenizer, [cut_short, *three_questions[1:]]).misses
    assert (miss.expected, miss.found) == ("Turn to", "Turn to the left.")
    # nor does an answer count that goes on behind the longest one that is expected
    assert len(measure_accuracy(tiny_model, tiny_tokenizer, [cut_short]).misses) == 1
    spaced = replace(three_questions[0], answer=" Turn to the left.\n")
    assert measure_accuracy(tiny_model, tiny_tokenizer, [spaced]).misses == ()


def test_equal_seeds_give_equal_losses_and_another_seed_another_dropout(counter: Make, numbers: Any) -> None:
    def losses(seed: int) -> list[float]:
        return train(Training(counter(dropout=0.3), numbers(), replace(_SHORT, seed=seed))).losses

    assert losses(0) == losses(0)
    assert losses(0) != losses(1)


def test_dropout_differs_from_step_to_step(counter: Make, numbers: Any) -> None:
    same = _Given((numbers()._batch(0, 0),) * 2)
    settings = TrainingSettings(epochs=1, schedule=WarmupStableDecay(peak=1e-12, warmup=0, decay=0.1))
    first, second = train(Training(counter(dropout=0.5), same, settings)).losses
    assert first != second


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_stopped_training_resumes_with_the_losses_and_weights_of_an_uninterrupted_one(
    counter: Make, numbers: Any, tmp_path: Path, accumulate: int
) -> None:
    settings = replace(_SHORT, accumulate=accumulate, evaluate_every=2)
    whole = Training(counter(dropout=0.2), numbers(), settings, validation=numbers(count=1, seed=5))
    expected = train(whole)
    checkpoints = Checkpoints(tmp_path)
    stopped = replace(whole, model=counter(dropout=0.2), checkpoints=checkpoints, callbacks=[_Ends(3)])
    assert train(stopped).losses == expected.losses[:3]
    # what else drew random numbers in between must not matter
    torch.manual_seed(99)
    resumed = replace(stopped, model=counter(dropout=0.2), callbacks=())
    found = train(resumed)
    assert (found.losses, found.evaluations, found.tokens) == (expected.losses, expected.evaluations, expected.tokens)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name


def test_a_finished_training_is_not_repeated(counter: Make, numbers: Any, tmp_path: Path) -> None:
    training = Training(counter(), numbers(), _SHORT, checkpoints=Checkpoints(tmp_path))
    first = train(training)
    notes = _Notes()
    again = replace(training, model=counter(), callbacks=[_Ends(1), notes])
    assert train(again).losses == first.losses
    # nor is its checkpoint written once more
    assert notes.told == [("begin", 12), ("end", 12)]


def test_callbacks_are_told_what_happens_in_order_and_each_checkpoint_once(
    counter: Make, numbers: Any, tmp_path: Path
) -> None:
    notes = _Notes()
    checkpoints = Checkpoints(tmp_path, every_steps=2)
    settings = TrainingSettings(max_steps=4, evaluate_every=3)
    train(Training(counter(), numbers(), settings, numbers(count=1), checkpoints, [notes]))
    assert notes.told == [
        ("begin", 0),
        ("checkpoint", 2),
        ("evaluation", 3),
        ("evaluation", 4),
        ("checkpoint", 4),
        ("end", 4),
    ]
    often = _Notes()
    at_once = Checkpoints(tmp_path / "often", every_seconds=0.0)
    train(Training(counter(), numbers(), settings, checkpoints=at_once, callbacks=[often]))
    assert [step for what, step in often.told if what == "checkpoint"] == [1, 2, 3, 4]


def test_the_seconds_of_all_runs_add_up(counter: Make, numbers: Any, tmp_path: Path) -> None:
    class Slow(Callback):
        def on_step(self, run: Run) -> None:
            run.history.seconds = 1000.0

    training = Training(counter(), numbers(), _SHORT, checkpoints=Checkpoints(tmp_path))
    train(replace(training, callbacks=[Slow(), _Ends(2)]))
    assert train(replace(training, model=counter())).seconds > 1000


def test_accumulated_batches_train_like_one_joint_batch(counter: Make) -> None:
    # of unequal sizes: the mean is over tokens, not over batches
    parts = [Batch(torch.randint(40, (rows, width))) for rows, width in ((1, 5), (3, 5), (2, 5))]
    joint = Batch(torch.cat([each.ids_BT for each in parts]))
    settings = TrainingSettings(epochs=5)

    def trained(given: tuple[Batch, ...], accumulate: int) -> tuple[list[float], PreTrainedModel]:
        model = counter()
        # not Adam, which makes rounding large where a gradient is nearly zero
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
        training = Training(model, _Given(given), replace(settings, accumulate=accumulate), optimizer=optimizer)
        return train(training).losses, model

    found, apart = trained(tuple(parts), 3)
    expected, together = trained((joint,), 1)
    assert found == pytest.approx(expected, rel=1e-5)
    for mine, theirs in zip(apart.parameters(), together.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)


def test_a_training_by_steps_takes_as_many_epochs_as_it_needs(counter: Make, numbers: Any) -> None:
    history = train(Training(counter(), numbers(count=3), TrainingSettings(max_steps=7, schedule=_SCHEDULE)))
    assert history.step == 7
    assert history.tokens == [4 * 9] * 7
    assert history.rates == [_SCHEDULE.rate(step, 7) for step in range(7)]


def test_without_schedule_the_optimizers_own_rate_stays(counter: Make, numbers: Any) -> None:
    model = counter()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.125)
    before = copy.deepcopy(model.state_dict())
    history = train(Training(model, numbers(), TrainingSettings(max_steps=2), optimizer=optimizer))
    assert history.rates == [0.125, 0.125]
    assert not all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_gradients_are_clipped(counter: Make, numbers: Any) -> None:
    def moved_by(clip_norm: float | None) -> float:
        model = counter()
        before = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
        settings = TrainingSettings(max_steps=1, clip_norm=clip_norm)
        train(Training(model, numbers(), settings, optimizer=torch.optim.SGD(model.parameters(), lr=1.0)))
        return float((torch.nn.utils.parameters_to_vector(model.parameters()).detach() - before).norm())

    assert moved_by(1e-3) == pytest.approx(1e-3, rel=1e-2)
    assert moved_by(None) > 0.1


def test_evaluations_are_made_where_due_and_at_the_end_without_dropout(counter: Make, numbers: Any) -> None:
    validation = numbers(count=2, seed=9)
    settings = TrainingSettings(max_steps=5, schedule=_SCHEDULE, evaluate_every=2)
    model = counter(dropout=0.5)
    history = train(Training(model, numbers(), settings, validation=validation))
    assert [each.step for each in history.evaluations] == [2, 4, 5]
    with torch.no_grad():
        expected = sum(float(learned_loss(model, batch)) for batch in validation.batches(0)) / 2
    assert history.evaluations[-1].loss == pytest.approx(expected, rel=1e-6)


def test_a_validation_loss_is_the_mean_over_all_that_is_learned(counter: Make, numbers: Any) -> None:
    generator = torch.Generator().manual_seed(4)
    ids_BT = torch.randint(40, (6, 5), generator=generator)
    silent = Batch(ids_BT[:2], torch.zeros(2, 5, dtype=torch.bool))
    # the first id of a row is never predicted, whatever is said of it
    first = Batch(ids_BT[:2], torch.tensor([[True, True, False, False, False]] * 2))
    assert learned_count(first) == 2
    settings = TrainingSettings(max_steps=1)

    def measured(*batches: Batch) -> float:
        return train(Training(counter(), numbers(), settings, validation=_Given(batches))).evaluations[0].loss

    whole = measured(Batch(ids_BT))
    # batches of unequal sizes, and one in which nothing is learned
    assert measured(Batch(ids_BT[:1]), silent, Batch(ids_BT[1:])) == pytest.approx(whole, rel=1e-5)


def test_matrices_decay_and_vectors_do_not(counter: Make) -> None:
    matrices, vectors = adamw(counter(), TrainingSettings(epochs=1, weight_decay=0.3)).param_groups
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.3, 0.0)
    assert {each.dim() for each in vectors["params"]} == {1}


def test_a_loss_that_is_no_number_stops_the_training_and_keeps_the_checkpoint_from_before(
    counter: Make, numbers: Any, tmp_path: Path
) -> None:
    checkpoints = Checkpoints(tmp_path, every_steps=1)
    training = Training(counter(), numbers(), _SHORT, checkpoints=checkpoints, callbacks=[_Ends(2)])
    before = train(training).losses

    class Breaks(Callback):
        def on_begin(self, run: Run) -> None:
            with torch.no_grad():
                next(run.model.parameters()).fill_(float("nan"))

    with pytest.raises(TrainingDivergedError, match=r"step 3.*learning rate"):
        train(replace(training, model=counter(), callbacks=[Breaks()]))
    whole = replace(training, model=counter(), callbacks=())
    assert train(whole).losses[:2] == before


def test_epochs_begin_and_end_for_callbacks(counter: Make, numbers: Any, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []

    class Epochs(Callback):
        def on_epoch_begin(self, run: Run) -> None:
            told.append(("begin", run.epoch, run.step))

        def on_epoch_end(self, run: Run) -> None:
            told.append(("end", run.epoch, run.step))

    settings = TrainingSettings(epochs=2, accumulate=3)
    training = Training(counter(), numbers(), settings, callbacks=[Epochs()], checkpoints=Checkpoints(tmp_path))
    train(replace(training, callbacks=[Epochs(), _Ends(3)]))
    # four batches are two steps
    assert told == [("begin", 0, 0), ("end", 0, 2), ("begin", 1, 2)]
    told.clear()
    train(replace(training, model=counter()))
    assert told == [("begin", 1, 3), ("end", 1, 4)]


@pytest.mark.parametrize("settings", [TrainingSettings(epochs=2), TrainingSettings(max_steps=3)])
def test_a_text_of_which_nothing_is_to_be_predicted_is_an_error(counter: Make, settings: TrainingSettings) -> None:
    ids_BT = torch.arange(12).reshape(2, 6)
    nothing = _Given((Batch(ids_BT, torch.zeros_like(ids_BT, dtype=torch.bool)),) * 4)
    with pytest.raises(EmptyDataError, match="nothing in epoch 0 of the training data is to be predicted: all labels"):
        train(Training(counter(), nothing, settings))
    # some batches may have nothing
    some = _Given((nothing.given[0], Batch(ids_BT)))
    assert train(Training(counter(), some, TrainingSettings(epochs=1))).losses[0] == 0.0


def test_no_batches_are_refused(counter: Make, numbers: Any) -> None:
    with pytest.raises(EmptyDataError, match="at least one row"):
        train(Training(counter(), _None(), _SHORT))
    with pytest.raises(EmptyDataError, match="validation"):
        train(Training(counter(), numbers(), replace(_SHORT, evaluate_every=1), validation=_None()))


def test_the_loss_is_the_mean_over_learned_positions_whatever_the_padding(tiny_model: PreTrainedModel) -> None:
    short = Row((4, 5, 6), (False, True, True))
    long = Row((7, 8, 9, 10, 11), (False, False, False, True, True))
    tiny_model.eval()
    with torch.no_grad():
        alone = [float(learned_loss(tiny_model, padded([row]))) for row in (short, long)]
        together = float(learned_loss(tiny_model, padded([short, long])))
        own = float(tiny_model(torch.tensor([long.ids]), labels=torch.tensor([[-100, -100, -100, 10, 11]])).loss)
    assert together == pytest.approx(sum(alone) / 2, rel=1e-5)
    assert alone[1] == pytest.approx(own, rel=1e-5)


def test_a_batch_in_which_nothing_is_learned_changes_nothing_but_the_mean(counter: Make) -> None:
    ids_BT = torch.randint(40, (2, 5))
    silent = Batch(ids_BT, torch.zeros(2, 5, dtype=torch.bool))
    assert learned_count(silent) == 0
    settings = TrainingSettings(epochs=1, accumulate=2, schedule=_SCHEDULE)
    found = train(Training(counter(), _Given((Batch(ids_BT), silent)), settings)).losses
    assert found == train(Training(counter(), _Given((Batch(ids_BT),)), settings)).losses


def test_rows_may_be_one_id_longer_than_the_context(counter: Make, numbers: Any) -> None:
    settings = TrainingSettings(max_steps=1)
    assert train(Training(counter(), numbers(width=17), settings)).step == 1


def test_batches_are_made_when_they_are_trained(counter: Make) -> None:
    made: list[int] = []

    class Counts(Callback):
        def on_step(self, run: Run) -> None:
            assert made == list(range(run.step))

    def make(index: int) -> Batch:
        made.append(index)
        return Batch(torch.randint(40, (1, 4)))

    class Lazy:
        def batches(self, epoch: int) -> Sequence[Batch]:
            return LazyBatches(range(3), make)

    train(Training(counter(), Lazy(), TrainingSettings(epochs=1), callbacks=[Counts()]))
    assert made == [0, 1, 2]
