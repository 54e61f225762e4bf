from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset
from transformers import PreTrainedModel

from cleangpt.data.batches import Batch
from cleangpt.errors import UnknownTrainerError
from cleangpt.trainers import (
    TRAINER_REGISTRY,
    BaseTrainer,
    Callback,
    Checkpoints,
    History,
    Run,
    TrainingSettings,
    get_trainer,
    register_trainer,
)

Make = Callable[..., PreTrainedModel]


@pytest.fixture
def dataloader(numbers: Any) -> "DataLoader[Any]":
    rows = torch.cat([batch.ids_BT for batch in numbers(count=3).batches(0)])
    return DataLoader(TensorDataset(rows[:, :-1], rows[:, 1:]), batch_size=4, shuffle=True)


@pytest.fixture
def registry() -> Iterator[None]:
    """Forgets what a test registers."""
    before = dict(TRAINER_REGISTRY)
    yield
    TRAINER_REGISTRY.clear()
    TRAINER_REGISTRY.update(before)


class _Steps(Callback):
    def __init__(self) -> None:
        self.seen: list[int] = []

    def on_step(self, run: Run) -> None:
        self.seen.append(run.step)


def test_the_documented_call_trains(
    counter: Make, dataloader: "DataLoader[Any]", capsys: pytest.CaptureFixture[str]
) -> None:
    model = counter()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    trainer = get_trainer(
        trainer_type="simple",
        model=model,
        dataloader=dataloader,
        optimizer=optimizer,
        device="cpu",
        num_epochs=5,
    )
    history = trainer.train()
    assert history.step == 15
    assert history.losses[-1] < history.losses[0] - 0.2
    assert "tokens/s" in capsys.readouterr().err


def test_optimizer_device_and_epochs_may_be_left_out(counter: Make, dataloader: "DataLoader[Any]") -> None:
    assert get_trainer("callbacks", model=counter(), dataloader=dataloader).train().step == 3


def test_the_callback_trainer_calls_what_it_is_given_and_says_nothing(
    counter: Make, numbers: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = _Steps()
    get_trainer("callbacks", model=counter(), dataloader=numbers(), num_epochs=1, callbacks=[steps]).train()
    assert steps.seen == [1, 2, 3, 4]
    assert capsys.readouterr().err == ""


def test_both_trainers_compute_the_same(counter: Make, dataloader: "DataLoader[Any]") -> None:
    found = [
        get_trainer(name, model=counter(0.1), dataloader=dataloader, num_epochs=2).train().losses
        for name in ("simple", "callbacks")
    ]
    assert found[0] == found[1]


def test_a_dataloader_training_resumes_in_the_middle_of_an_epoch(
    counter: Make, dataloader: "DataLoader[Any]", tmp_path: Path
) -> None:
    class Ends(Callback):
        def on_step(self, run: Run) -> None:
            if run.step == 4:
                run.stop("enough")

    def losses(**options: Any) -> list[float]:
        trainer = get_trainer("callbacks", model=counter(0.1), dataloader=dataloader, num_epochs=3, **options)
        return trainer.train().losses

    checkpoints = Checkpoints(tmp_path)
    assert len(losses(checkpoints=checkpoints, callbacks=[Ends()])) == 4
    assert losses(checkpoints=checkpoints) == losses()


def test_an_unknown_name_is_refused_with_the_known_ones(counter: Make, numbers: Any) -> None:
    with pytest.raises(UnknownTrainerError, match="'fancy'; known are callbacks, simple"):
        get_trainer("fancy", model=counter(), dataloader=numbers())


@pytest.mark.usefixtures("registry")
def test_a_new_strategy_overrides_the_loss_and_is_found_by_its_name(counter: Make, numbers: Any) -> None:
    @register_trainer("doubled")
    class Doubled(BaseTrainer):
        def callbacks(self) -> Sequence[Callback]:
            return ()

        def loss(self, model: Any, batch: Batch) -> torch.Tensor:
            return 2 * super().loss(model, batch)

    settings = TrainingSettings(max_steps=1)
    found = [
        get_trainer(name, model=counter(), dataloader=numbers(), settings=settings).train().losses[0]
        for name in ("doubled", "callbacks")
    ]
    assert found[0] == pytest.approx(2 * found[1])


def test_epochs_take_the_place_of_the_settings_length(counter: Make, numbers: Any) -> None:
    settings = TrainingSettings(max_steps=50)
    trainer = get_trainer("callbacks", model=counter(), dataloader=numbers(), num_epochs=2, settings=settings)
    assert trainer.train().step == 8


def test_the_optimizer_the_validation_and_the_seed_that_were_given_are_used(
    counter: Make, numbers: Any, dataloader: "DataLoader[Any]"
) -> None:
    def trained(seed: int) -> History:
        model = counter()
        return get_trainer(
            "callbacks",
            model=model,
            dataloader=dataloader,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.125),
            num_epochs=1,
            settings=TrainingSettings(max_steps=9, seed=seed),
            validation=DataLoader(torch.cat([each.ids_BT for each in numbers(seed=5).batches(0)]), batch_size=4),
        ).train()

    history = trained(0)
    assert history.rates == [0.125] * 3
    assert [each.step for each in history.evaluations] == [3]
    # without dropout only the order of the rows is drawn
    assert trained(1).losses != history.losses == trained(0).losses
