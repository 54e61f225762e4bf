from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, DistributedSampler, RandomSampler, TensorDataset

from cleangpt.data.batches import Batch
from cleangpt.errors import BatchFormatError, TrainingSettingsError
from cleangpt.trainers.loaders import LoaderBatches, as_batch, epochs_of

_IDS_BT = torch.arange(12).reshape(4, 3)


class _Noisy(Dataset[Tensor]):
    """Rows that are drawn at random when they are asked for."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Tensor:
        return torch.randint(1000, (4,))


def _rows(batches: Sequence[Batch]) -> list[list[int]]:
    return [row for batch in batches for row in batch.ids_BT.tolist()]


def _loaders() -> list[DataLoader[Any]]:
    rows = TensorDataset(torch.arange(20).reshape(10, 2))
    return [
        DataLoader(rows, batch_size=3, shuffle=True),
        DataLoader(rows, batch_size=3, shuffle=True, generator=torch.Generator()),
        DataLoader(rows, batch_size=3, sampler=RandomSampler(rows, generator=torch.Generator())),
        DataLoader(_Noisy(), batch_size=2),
    ]


@pytest.mark.parametrize("which", range(4))
def test_an_epoch_is_the_same_whenever_it_is_asked_for_and_epochs_differ(which: int) -> None:
    expected = _rows(LoaderBatches(_loaders()[which], seed=1).batches(2))
    torch.randint(10, (7,))
    again = LoaderBatches(_loaders()[which], seed=1)
    assert _rows(again.batches(3)) != expected
    assert _rows(again.batches(2)) == expected
    assert _rows(LoaderBatches(_loaders()[which], seed=2).batches(2)) != expected
    # nor does one seed draw in a later epoch what the next one draws before
    assert _rows(LoaderBatches(_loaders()[which], seed=2).batches(1)) != expected


@pytest.mark.parametrize("which", range(4))
def test_a_later_batch_can_be_asked_for_first(which: int) -> None:
    whole = LoaderBatches(_loaders()[which], seed=1).batches(0)
    expected = [each.ids_BT.tolist() for each in whole]
    late = LoaderBatches(_loaders()[which], seed=1).batches(0)
    assert late[2].ids_BT.tolist() == expected[2]
    assert late[0].ids_BT.tolist() == expected[0]
    assert late[2].ids_BT.tolist() == expected[2]


def test_an_epoch_in_order_reads_every_row_once() -> None:
    class Counted(Dataset[Tensor]):
        read = 0

        def __len__(self) -> int:
            return 6

        def __getitem__(self, index: int) -> Tensor:
            self.read += 1
            return torch.full((3,), index)

    rows = Counted()
    epoch = LoaderBatches(DataLoader(rows, batch_size=2), seed=1).batches(0)
    found = [epoch[index].ids_BT[:, 0].tolist() for index in range(3)]
    assert found == [[0, 1], [2, 3], [4, 5]]
    assert rows.read == 6


def test_a_sampler_that_counts_epochs_is_told_which_one_it_is() -> None:
    rows = TensorDataset(torch.arange(20).reshape(10, 2))
    sampler = DistributedSampler(rows, num_replicas=1, rank=0)
    batches = LoaderBatches(DataLoader(rows, batch_size=3, sampler=sampler), seed=1)
    first, second = _rows(batches.batches(0)), _rows(batches.batches(1))
    assert first != second
    assert sorted(first) == sorted(second)


@pytest.mark.parametrize("nested", [False, True])
def test_a_sampler_in_a_batch_sampler_is_told_the_epoch_and_refused_if_it_shares(nested: bool) -> None:
    rows = TensorDataset(torch.arange(20).reshape(10, 2))

    def loader(n_shares: int) -> DataLoader[Any]:
        sampler = DistributedSampler(rows, num_replicas=n_shares, rank=0)
        if nested:
            return DataLoader(rows, batch_sampler=BatchSampler(sampler, 3, drop_last=False))
        return DataLoader(rows, batch_size=3, sampler=sampler)

    first, second = (_rows(epochs_of(loader(1), seed=1).batches(epoch)) for epoch in (0, 1))
    assert first != second
    # in one process too, where the other shares would be left out without a word
    with pytest.raises(
        TrainingSettingsError, match="sampler is a DistributedSampler, which gives each process its own"
    ):
        epochs_of(loader(2))


def test_what_else_draws_random_numbers_changes_no_row_and_is_not_changed() -> None:
    expected = _rows(LoaderBatches(_loaders()[3], seed=1).batches(0))
    torch.manual_seed(5)
    alone = torch.rand(3).tolist()
    torch.manual_seed(5)
    batches, found, drawn = LoaderBatches(_loaders()[3], seed=1).batches(0), [], []
    for index in range(3):
        found.append(batches[index])
        drawn.append(float(torch.rand(())))
    assert _rows(found) == expected
    assert drawn == alone


def test_ids_alone_are_learned_whole() -> None:
    for item in (_IDS_BT, [_IDS_BT], (_IDS_BT,), {"input_ids": _IDS_BT}, Batch(_IDS_BT)):
        batch = as_batch(item)
        assert batch.learned_BT is None
        assert torch.equal(batch.ids_BT, _IDS_BT)


def test_a_pair_of_ids_and_followers_becomes_rows_one_id_longer() -> None:
    batch = as_batch((_IDS_BT[:, :-1], _IDS_BT[:, 1:]))
    assert torch.equal(batch.ids_BT, _IDS_BT)


def test_labels_and_padding_say_what_is_learned() -> None:
    labels_BT = _IDS_BT.masked_fill(_IDS_BT < 2, -100)
    mask_BT = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 1], [1, 0, 0]])
    batch = as_batch({"input_ids": _IDS_BT, "labels": labels_BT, "attention_mask": mask_BT})
    assert batch.learned_BT is not None
    assert batch.learned_BT.int().tolist() == [[0, 0, 1], [1, 1, 0], [1, 1, 1], [1, 0, 0]]


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ("text", "found str"),
        ({"ids": _IDS_BT}, "found dict"),
        (_IDS_BT.float(), "float32"),
        (_IDS_BT[0], r"\[3\]"),
        (_IDS_BT[:, :1], "T of 2 or more"),
        ((_IDS_BT, _IDS_BT), "shifted by one"),
        ({"input_ids": _IDS_BT, "labels": _IDS_BT + 1}, "the loss shifts them"),
        ({"input_ids": _IDS_BT, "attention_mask": torch.tensor([[0, 1, 1]] * 4)}, "padded on the right"),
    ],
)
def test_what_is_no_rows_of_ids_is_refused_with_what_was_found(item: object, said: str) -> None:
    with pytest.raises(BatchFormatError, match=said):
        as_batch(item)


def test_workers_that_outlive_their_epoch_are_refused() -> None:
    loader = DataLoader(list(torch.arange(8).reshape(4, 2)), num_workers=1, persistent_workers=True)
    with pytest.raises(TrainingSettingsError, match="set persistent_workers=False"):
        LoaderBatches(loader, seed=1)
