import pytest
import torch
from torch import nn

from cleangpt.data.batches import Batch
from cleangpt.distillation.stage import StagePlan, only, standing_still
from cleangpt.trainers import TrainingSettings
from cleangpt.trainers.loaders import SameEveryEpoch


def test_a_fit_that_fails_leaves_no_gradient_behind() -> None:
    still, fitted = nn.Linear(2, 2), nn.Linear(2, 2)

    def fit() -> None:
        with standing_still(still, fitted), only(list(fitted.parameters())):
            fitted(still(torch.ones(1, 2))).sum().backward()
            assert all(each.grad is None for each in still.parameters())
            assert all(each.grad is not None for each in fitted.parameters())
            raise RuntimeError("diverged")

    with pytest.raises(RuntimeError, match="diverged"):
        fit()
    for each in (*still.parameters(), *fitted.parameters()):
        assert each.requires_grad
        assert each.grad is None


def test_the_models_learn_in_training_mode_and_are_measured_in_evaluation_mode() -> None:
    batches = SameEveryEpoch([Batch(torch.ones(1, 2, dtype=torch.long))] * 2)
    model, modes = nn.Sequential(nn.Linear(2, 2), nn.Dropout()), list[bool]()

    def objective(_: Batch) -> torch.Tensor:
        modes.append(model[1].training)
        return model(torch.ones(1, 2)).sum()

    plan = StagePlan(batches, TrainingSettings(epochs=1, evaluate_every=1), {}, validation=batches)
    plan.fit("one", list(model.parameters()), objective, 1, 1e-3, models=[model])
    assert modes == [True, False, False] * 2
    assert not model[1].training


@pytest.mark.parametrize("accumulate", [1, 4, 7])
def test_the_rate_reaches_its_peak_however_many_batches_make_a_step(accumulate: int) -> None:
    batches = [Batch(torch.ones(1, 2, dtype=torch.long))] * 80
    plan = StagePlan(SameEveryEpoch(batches), TrainingSettings(epochs=1, accumulate=accumulate), {})
    weight = nn.Parameter(torch.ones(2))
    history = plan.fit("one", [weight], lambda _: (weight**2).sum(), 2, 1e-3)
    assert max(history.rates) == pytest.approx(1e-3)
    assert history.step == 2 * -(-80 // accumulate)
