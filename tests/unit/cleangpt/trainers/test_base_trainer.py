"""`evaluate` of every trainer: the number that its history has of an evaluation."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from cleangpt.data.batches import Batch
from cleangpt.errors import BatchFormatError, EmptyDataError
from cleangpt.trainers import TRAINER_REGISTRY, BaseTrainer, Callback, Measurement, TrainingSettings, get_trainer

Make = Callable[..., PreTrainedModel]


@pytest.mark.parametrize("trainer_type", TRAINER_REGISTRY)
def test_the_validation_is_measured_as_the_history_has_it(counter: Make, numbers: Any, trainer_type: str) -> None:
    settings = TrainingSettings(max_steps=3, bf16_autocast=True)
    trainer = get_trainer(
        trainer_type, model=counter(0.3), dataloader=numbers(), settings=settings, validation=numbers(count=2, seed=5)
    )
    history = trainer.train()
    found = trainer.evaluate()
    assert found.loss == history.evaluations[-1].loss
    assert found.tokens == 2 * 4 * 8
    assert found.perplexity == pytest.approx(math.exp(found.loss))


def test_other_rows_may_be_given_as_a_dataloader(counter: Make, numbers: Any) -> None:
    rows = torch.cat([batch.ids_BT for batch in numbers(count=2, seed=6).batches(0)])
    trainer = get_trainer("callbacks", model=counter(), dataloader=numbers(), validation=numbers(count=2, seed=5))
    found = [trainer.evaluate(given).loss for given in (DataLoader(rows, batch_size=3), numbers(count=2, seed=6), None)]
    assert found[0] == pytest.approx(found[1], rel=1e-6)
    assert abs(found[2] - found[1]) > 1e-3


def test_a_list_of_batches_is_trained_on_and_measured(counter: Make, numbers: Any) -> None:
    batches = list(numbers(count=3).batches(0))
    trainer = get_trainer("callbacks", model=counter(), dataloader=batches, validation=batches[:1], num_epochs=2)
    assert trainer.train().step == 6
    assert trainer.evaluate().loss == trainer.evaluate([batches[0].ids_BT]).loss
    with pytest.raises(BatchFormatError, match="give a DataLoader, a list of batches, or EpochBatches; found str"):
        get_trainer("callbacks", model=counter(), dataloader="rows").train()


def test_a_strategys_own_loss_is_measured(counter: Make, numbers: Any) -> None:
    class Doubled(BaseTrainer):
        def callbacks(self) -> Sequence[Callback]:
            return ()

        def loss(self, model: Any, batch: Batch) -> torch.Tensor:
            return 2 * super().loss(model, batch)

    model, held_out = counter(), numbers(count=1, seed=5)
    plain = get_trainer("callbacks", model=model, dataloader=numbers()).evaluate(held_out)
    assert Doubled(model, numbers()).evaluate(held_out).loss == pytest.approx(2 * plain.loss)


def test_every_module_is_in_its_own_mode_again_and_nothing_was_learned(counter: Make, numbers: Any) -> None:
    model = counter(dropout=0.5).train()
    model.lm_head.eval()
    before = [each.clone() for each in model.parameters()]
    trainer = get_trainer("callbacks", model=model, dataloader=numbers())
    # without dropout meanwhile
    assert trainer.evaluate(numbers()) == trainer.evaluate(numbers())
    assert all(module.training == (module is not model.lm_head) for module in model.modules())
    assert all(map(torch.equal, before, model.parameters()))
    assert all(each.grad is None for each in model.parameters())


def test_without_validation_there_is_nothing_to_evaluate_on(counter: Make, numbers: Any) -> None:
    trainer = get_trainer("callbacks", model=counter(), dataloader=numbers())
    with pytest.raises(EmptyDataError, match="give evaluate a dataloader, or the trainer validation="):
        trainer.evaluate()


def test_a_loss_that_is_too_large_has_no_finite_perplexity() -> None:
    assert Measurement(1000.0, 1).perplexity == math.inf
