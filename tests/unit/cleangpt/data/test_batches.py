from dataclasses import dataclass

import torch
from torch import Tensor

from cleangpt.data.batches import Batch


@dataclass(frozen=True, kw_only=True)
class _Heavy(Batch):
    """A batch that carries more than ids."""

    rows: tuple[Tensor, Tensor]
    name: str = ""


def _heavy() -> _Heavy:
    ids_BT = torch.arange(6).reshape(3, 2)
    return _Heavy(ids_BT, ids_BT % 2 == 0, rows=(ids_BT + 10, ids_BT + 20), name="heavy")


def test_all_that_a_batch_carries_goes_to_a_device() -> None:
    moved = _heavy().to(torch.device("meta"))
    assert moved.learned_BT is not None
    assert {each.device.type for each in (moved.ids_BT, moved.learned_BT, *moved.rows)} == {"meta"}
    assert moved.name == "heavy"
    assert Batch(torch.zeros(1, 2)).to(torch.device("meta")).learned_BT is None


def test_some_rows_keep_all_that_they_carry() -> None:
    some = _heavy().of_rows(slice(1, None, 2))
    assert some.ids_BT.tolist() == [[2, 3]]
    assert some.learned_BT is not None
    assert some.learned_BT.tolist() == [[True, False]]
    assert [each.tolist() for each in some.rows] == [[[12, 13]], [[22, 23]]]
