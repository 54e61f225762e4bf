"""Adapts a torch DataLoader to the batches of each epoch.

Shapes: B rows, T positions.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from cleangpt.data.batches import Batch, EpochBatches
from cleangpt.errors import BatchFormatError, TrainingSettingsError
from cleangpt.trainers.random_streams import RandomStream, torch_seed

IGNORED_LABEL = -100
_KNOWN = (
    "a Batch, ids [B, T], (ids, the ids that follow each of them), or a mapping with input_ids and perhaps labels "
    "(-100: not learned) and attention_mask"
)


class LoaderBatches:
    """The batches of a DataLoader. What it draws from the global random generators depends on seed and epoch alone.

    Raises TrainingSettingsError for persistent workers, which go on with the random numbers of the epochs before, and
    for samplers that give each process its own rows.

    A resumed training therefore sees the same order as an uninterrupted one; it reads the batches from before the stop
    again and skips them. `sources` are the parts of the loader that may have random generators of their own: see
    `cleangpt.trainers.feed`.
    """

    def __init__(self, loader: "DataLoader[Any]", seed: int) -> None:
        if loader.persistent_workers:
            raise TrainingSettingsError(
                "the DataLoader has persistent_workers=True: its workers draw on from the epochs before, so a resumed "
                "training would not see the same batches; set persistent_workers=False"
            )
        _refuse_shares(loader)
        self._loader = loader
        self._seed = seed
        parts = ("dataset", "sampler", "batch_sampler", "collate_fn")
        self.sources = {name: getattr(loader, name) for name in parts}

    def batches(self, epoch: int) -> Sequence[Batch]:
        """The batches of `epoch`; take them in order."""
        return _Epoch(self._loader, self._seed * 1_000_003 + epoch, epoch)


class SameEveryEpoch:
    """The same batches in every epoch."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._batches = batches

    def batches(self, epoch: int) -> Sequence[Batch]:
        """All batches, regardless of the epoch."""
        return self._batches


def epochs_of(source: Any, seed: int = 0) -> EpochBatches:
    """The batches of each epoch, from EpochBatches, a DataLoader, or a list of items as DataLoaders yield them.

    Raises:
        BatchFormatError: `source` is none of these, or its items are not rows of token ids.
    """
    if hasattr(source, "batches"):
        epochs: EpochBatches = source
        return epochs
    if isinstance(source, DataLoader):
        return LoaderBatches(source, seed)
    if isinstance(source, Sequence) and not isinstance(source, str):
        return SameEveryEpoch([as_batch(item) for item in source])
    raise BatchFormatError(f"give a DataLoader, a list of batches, or EpochBatches; found {type(source).__name__}")


def _samplers(loader: "DataLoader[Any]") -> dict[str, Any]:
    """All that choose rows, by name."""
    inner = getattr(loader.batch_sampler, "sampler", None)
    return {"sampler": loader.sampler, "batch_sampler": loader.batch_sampler, "batch_sampler's sampler": inner}


def _refuse_shares(loader: "DataLoader[Any]") -> None:
    """Raises TrainingSettingsError if each process reads rows of its own, of which each would then train on a share."""
    for name, sampler in _samplers(loader).items():
        if isinstance(sampler, DistributedSampler) and sampler.num_replicas > 1:
            raise TrainingSettingsError(
                f"the DataLoader's {name} is a DistributedSampler, which gives each process its own rows; the loop "
                "shares each batch among the processes itself, so give the loader a plain sampler, and batches as "
                "large as those of all processes together"
            )


class _Epoch(Sequence[Batch]):
    def __init__(self, loader: "DataLoader[Any]", seed: int, epoch: int) -> None:
        self._loader = loader
        self._seed = seed
        self._epoch = epoch
        self._taken = 0
        self._found: Iterator[Any] | None = None
        self._stream = RandomStream(seed)

    def __len__(self) -> int:
        return len(self._loader)

    @overload
    def __getitem__(self, index: int) -> Batch: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Batch]: ...
    def __getitem__(self, index: int | slice) -> Batch | Sequence[Batch]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        if self._found is None or index < self._taken:
            self._begin()
        while self._taken < index:
            self._next()
        return as_batch(self._next())

    def _begin(self) -> None:
        samplers = _samplers(self._loader).values()
        for sampler in samplers:
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(self._epoch)
        for generator in (self._loader.generator, *(getattr(sampler, "generator", None) for sampler in samplers)):
            if generator is not None:
                generator.manual_seed(torch_seed(self._seed))
        # the loader has its own random stream, so that the model's dropout cannot shift it
        self._stream = RandomStream(self._seed)
        with self._stream.drawn():
            self._found = iter(self._loader)
        self._taken = 0

    def _next(self) -> Any:
        with self._stream.drawn():
            item = next(self._found or iter(()))
        self._taken += 1
        return item


def as_batch(item: object) -> Batch:
    """Converts an item of a DataLoader to a Batch. Raises BatchFormatError if it cannot be read as rows of ids."""
    if isinstance(item, Batch):
        return item
    if isinstance(item, Tensor):
        return Batch(_ids(item))
    if isinstance(item, Mapping) and isinstance(item.get("input_ids"), Tensor):
        return _of_mapping(item)
    if isinstance(item, list | tuple) and len(item) == 1:
        return as_batch(item[0])
    if isinstance(item, list | tuple) and len(item) == 2 and all(isinstance(each, Tensor) for each in item):
        ids_BT, following_BT = _ids(item[0]), _ids(item[1])
        if ids_BT.shape != following_BT.shape or not torch.equal(ids_BT[:, 1:], following_BT[:, :-1]):
            raise BatchFormatError("the second tensor of a pair has to be the first one shifted by one id to the left")
        return Batch(torch.cat((ids_BT, following_BT[:, -1:]), dim=1))
    raise BatchFormatError(f"the dataloader has to yield {_KNOWN}; found {type(item).__name__}")


def _of_mapping(item: Mapping[str, Any]) -> Batch:
    ids_BT, labels_BT, mask_BT = _ids(item["input_ids"]), item.get("labels"), item.get("attention_mask")
    learned_BT = torch.ones_like(ids_BT, dtype=torch.bool)
    if mask_BT is not None:
        if not bool((mask_BT[:, 1:] <= mask_BT[:, :-1]).all()):
            raise BatchFormatError("rows have to be padded on the right: attention_mask has a 0 before a 1")
        learned_BT &= mask_BT.bool()
    if labels_BT is not None:
        learned_BT &= labels_BT != IGNORED_LABEL
        if not torch.equal(labels_BT[learned_BT], ids_BT[learned_BT]):
            raise BatchFormatError("labels have to equal input_ids wherever they are not -100: the loss shifts them")
    return Batch(ids_BT, None if bool(learned_BT.all()) else learned_BT)


def _ids(tensor: Tensor) -> Tensor:
    if tensor.dim() != 2 or tensor.is_floating_point() or tensor.shape[1] < 2:
        raise BatchFormatError(
            f"token ids have to be whole numbers in [B, T] with T of 2 or more; "
            f"found {tensor.dtype} in {list(tensor.shape)}"
        )
    return tensor.long()
