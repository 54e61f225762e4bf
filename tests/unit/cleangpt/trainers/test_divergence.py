"""Losses, gradients and weights that are not finite: the training says so, and the last good checkpoint stays."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from cleangpt.data.batches import Batch
from cleangpt.errors import TrainingDivergedError
from cleangpt.trainers import Callback, Checkpoints, Run, Training, TrainingSettings, learned_loss, train
from cleangpt.trainers.history import Evaluation, History

Make = Callable[..., PreTrainedModel]


class BadGradients:
    """The loss as always; in these steps the gradient is NaN, as the root of 0 has no slope."""

    def __init__(self, *steps: int) -> None:
        self.steps, self.n_calls = steps, 0

    def __call__(self, model: Any, batch: Batch) -> Tensor:
        self.n_calls += 1
        loss = learned_loss(model, batch)
        if self.n_calls in self.steps:
            loss = loss + (0.0 * next(model.parameters()).flatten()[0]).sqrt()
        return loss


def weights(model: PreTrainedModel) -> list[Tensor]:
    return [each.detach().clone() for each in model.parameters()]


def test_a_gradient_that_is_not_finite_stops_the_training_before_it_reaches_the_weights(
    counter: Make, numbers: Any, tmp_path: Path
) -> None:
    settings, checkpoints = TrainingSettings(max_steps=6), Checkpoints(tmp_path, every_steps=1)
    training = Training(counter(), numbers(), settings, checkpoints=checkpoints, objective=BadGradients(3))
    with pytest.raises(
        TrainingDivergedError, match=r"gradient's norm became nan in step 3, though the loss was finite"
    ):
        train(training)
    assert all(each.isfinite().all() for each in training.model.parameters())
    whole = replace(training, model=counter(), checkpoints=None, objective=learned_loss)
    again = replace(training, model=counter(), objective=learned_loss)
    assert train(again).losses == train(whole).losses


def test_a_step_can_be_skipped_for_its_gradient_and_is_counted(counter: Make, numbers: Any) -> None:
    settings = TrainingSettings(max_steps=3, non_finite_gradient="skip", clip_norm=None)
    training = Training(counter(), numbers(), settings, objective=BadGradients(1, 2, 3))
    before = weights(training.model)
    history = train(training)
    assert history.skipped == [1, 2, 3]
    assert len(history.gradient_norms) == 3
    assert all(torch.equal(was, now) for was, now in zip(before, weights(training.model), strict=True))
    some = train(replace(training, model=counter(), objective=BadGradients(2)))
    assert some.skipped == [2]
    assert [norm > 0 for norm in some.gradient_norms] == [True, False, True]


def test_a_training_that_skips_every_step_stops(counter: Make, numbers: Any) -> None:
    settings = TrainingSettings(max_steps=50, non_finite_gradient="skip")
    bad = BadGradients(*range(3, 50))
    with pytest.raises(TrainingDivergedError, match="not finite in the 10 steps up to 12"):
        train(Training(counter(), numbers(), settings, objective=bad))
    assert bad.n_calls == 12


def test_the_gradients_norm_is_that_before_clipping(counter: Make, numbers: Any) -> None:
    free = train(Training(counter(), numbers(), TrainingSettings(max_steps=1, clip_norm=None)))
    clipped = train(Training(counter(), numbers(), TrainingSettings(max_steps=1, clip_norm=1e-3)))
    assert free.gradient_norms == clipped.gradient_norms
    assert free.gradient_norms[0] > 1e-3


def test_a_validation_loss_that_is_no_number_stops_the_training_and_the_best_weights_stay(
    counter: Make, numbers: Any, tmp_path: Path
) -> None:
    def objective(model: Any, batch: Batch) -> Tensor:
        if not model.training:
            measured.append(learned_loss(model, batch))
        return learned_loss(model, batch) if len(measured) < 4 else torch.tensor(float("nan"))

    measured: list[Tensor] = []
    settings = TrainingSettings(max_steps=6, evaluate_every=1)
    training = Training(
        counter(), numbers(), settings, numbers(count=1), Checkpoints(tmp_path, every_steps=1), objective=objective
    )
    with pytest.raises(
        TrainingDivergedError, match=r"validation loss became nan after step 4; .*best weights are those of step [1-3]"
    ):
        train(training)
    assert (tmp_path / "best.pt").exists()


def test_the_best_evaluation_is_never_one_without_a_number() -> None:
    nan, first, last = Evaluation(1, float("nan")), Evaluation(2, 3.0), Evaluation(3, 4.0)
    assert History(evaluations=[nan, first, last]).best == first
    assert History(evaluations=[nan]).best is None


def test_weights_that_are_not_finite_at_the_end_are_an_error_and_not_saved(
    counter: Make, numbers: Any, tmp_path: Path
) -> None:
    class Breaks(Callback):
        def on_step(self, run: Run) -> None:
            if run.step == 3:
                with torch.no_grad():
                    next(run.model.parameters()).fill_(float("inf"))

    settings, checkpoints = TrainingSettings(max_steps=3), Checkpoints(tmp_path, every_steps=1)
    training = Training(counter(), numbers(), settings, checkpoints=checkpoints, callbacks=[Breaks()])
    with pytest.raises(TrainingDivergedError, match="after step 3 the weights are no longer finite"):
        train(training)
    # goes on from step 2
    assert train(replace(training, model=counter(), callbacks=())).step == 3
    with pytest.raises(TrainingDivergedError, match="no longer finite"):
        train(replace(training, model=counter(), checkpoints=None))
