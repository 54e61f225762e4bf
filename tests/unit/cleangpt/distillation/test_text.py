import pytest
import torch
from torch.utils.data import DataLoader

from cleangpt.data.batches import Batch
from cleangpt.distillation.text import lengths, next_ids, predicting, present
from cleangpt.errors import BatchFormatError
from cleangpt.trainers.loaders import epochs_of

PADDED = Batch(torch.tensor([[5, 6, 7, 8], [5, 6, 0, 0]]), torch.tensor([[0, 0, 1, 1], [0, 1, 0, 0]]).bool())


def test_what_follows_the_last_learned_id_counts_as_padding() -> None:
    assert present(PADDED).tolist() == [[True] * 4, [True, True, False, False]]
    assert lengths(PADDED) == [4, 2]


def test_each_predicting_position_has_its_next_id() -> None:
    assert predicting(PADDED).tolist() == [[False, True, True, False], [True, False, False, False]]
    assert next_ids(PADDED).tolist() == [7, 8, 6]


def test_without_marks_everything_counts_and_all_but_the_first_is_predicted() -> None:
    batch = Batch(torch.tensor([[5, 6, 7]]))
    assert lengths(batch) == [3]
    assert next_ids(batch).tolist() == [6, 7]


def test_dataloaders_and_lists_of_what_they_yield_are_read() -> None:
    ids_BT = torch.arange(6).reshape(2, 3)
    of_loader = epochs_of(DataLoader(list(ids_BT), batch_size=2)).batches(0)
    of_list = epochs_of([{"input_ids": ids_BT}]).batches(3)
    assert of_loader[0].ids_BT.tolist() == of_list[0].ids_BT.tolist() == ids_BT.tolist()


def test_what_is_no_source_of_text_is_refused() -> None:
    with pytest.raises(BatchFormatError, match="DataLoader"):
        epochs_of(3)


def test_the_order_of_a_dataloader_follows_the_seed() -> None:
    def order(seed: int) -> list[int]:
        loader = DataLoader(list(torch.arange(40).reshape(20, 2)), batch_size=20, shuffle=True)
        return [int(row[0]) for row in epochs_of(loader, seed).batches(0)[0].ids_BT]

    assert order(1) == order(1) != order(2)
