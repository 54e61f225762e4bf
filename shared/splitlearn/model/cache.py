"""The cache of one session in a part: keys and values of attention layers, states of recurrent ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import DynamicCache, PretrainedConfig

from splitlearn.errors import UnsupportedModel
from splitlearn.hf.cache import can_crop, counts_rows, entry_classes, fill_cache, keeps_plain_kv


@dataclass(frozen=True)
class CacheLayerSpec:
    """How the cache's entry for one layer is made."""

    entry: type[Any]
    options: dict[str, Any]

    @property
    def can_truncate(self) -> bool:
        """Whether rows can be taken back out of it."""
        return can_crop(self.entry)

    @property
    def keeps_plain_kv(self) -> bool:
        """Whether it keeps all keys and values as they come, and nothing else."""
        return keeps_plain_kv(self.entry)


def cache_layer_specs(config: PretrainedConfig) -> list[CacheLayerSpec]:
    """The kinds for all layers of the whole model that `config` describes.

    Raises:
        UnsupportedModel: a layer of a kind that transformers has no entry for.
    """
    try:
        return [CacheLayerSpec(entry, options) for entry, options in entry_classes(config)]
    except LookupError as error:
        raise UnsupportedModel(
            f"{config.model_type}: transformers has no cache for layers of the kind {error.args[0]}"
        ) from error


class PartCache(DynamicCache):  # type: ignore[misc]  # transformers has no types
    """One session's cache in one part: an entry for each of the part's layers, in order."""

    def __init__(self, kinds: Sequence[CacheLayerSpec]) -> None:
        fill_cache(self, [kind.entry(**kind.options) for kind in kinds])
        self.n_rows = 0
        """Rows that the session holds before the current forward; kept by the part that runs with the cache."""
        self._counting = [layer for kind, layer in zip(kinds, self.layers, strict=True) if counts_rows(kind.entry)]

    def truncate(self, position: int) -> None:
        """Keeps the first `position` rows; entries that hold fewer stay as they are. Not for entries that cannot."""
        for layer in self._counting:
            excess = layer.get_seq_length() - position
            if excess > 0:
                layer.crop(-excess)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        # layers without attention do not count rows, and a part may have no others
        return int(super().get_seq_length(layer_idx)) if self._counting else self.n_rows

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        if not self._counting:
            return self.n_rows + query_length, 0
        rows, offset = super().get_mask_sizes(query_length, layer_idx)
        return rows, offset
