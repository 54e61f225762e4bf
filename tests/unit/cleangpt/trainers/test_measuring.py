from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from cleangpt.data.batches import Batch
from cleangpt.errors import EmptyDataError
from cleangpt.trainers.loaders import SameEveryEpoch
from cleangpt.trainers.measuring import measure
from cleangpt.trainers.objective import learned_loss
from cleangpt.trainers.processes import Processes

_CPU = torch.device("cpu")


def test_every_predicted_id_counts_alike_in_batches_of_any_size(counter: Callable[..., PreTrainedModel]) -> None:
    model = counter().eval()
    ids_BT = torch.arange(30).view(3, 10)
    learned_BT = torch.zeros(1, 10, dtype=torch.bool)
    nothing = Batch(ids_BT[:1], learned_BT)
    parts = SameEveryEpoch([Batch(ids_BT[:1]), nothing, Batch(ids_BT[1:])])
    found = measure(model, parts, learned_loss, _CPU, Processes())
    assert found.tokens == 3 * 9
    with torch.no_grad():
        assert found.loss == pytest.approx(float(learned_loss(model, Batch(ids_BT))), rel=1e-6)


@pytest.mark.parametrize(
    ("batches", "said"),
    [([], "has no batches"), ([Batch(torch.ones(1, 2).long(), torch.zeros(1, 2).bool())], "nothing in the validation")],
)
def test_nothing_to_measure_is_refused(batches: list[Batch], said: str) -> None:
    def never(_: Any, __: Batch) -> torch.Tensor:
        raise NotImplementedError

    with pytest.raises(EmptyDataError, match=said):
        measure(None, SameEveryEpoch(batches), never, _CPU, Processes())
