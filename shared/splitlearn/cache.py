"""What a part remembers of one session: keys and values of attention layers, states of recurrent ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import (
    DYNAMIC_LAYER_TYPE_MAPPING,
    Cache,
    CacheLayerMixin,
    DynamicSlidingWindowLayer,
    LinearAttentionCacheLayerMixin,
    get_layer_types_and_kwargs,
)

from splitlearn.errors import UnsupportedModel

# Layers with a window keep all their rows and leave the window to the mask: any row can then be taken back.
_WITHOUT_WINDOW = {
    "sliding_attention": "full_attention",
    "chunked_attention": "full_attention",
    "hybrid_sliding": "hybrid",
}


@dataclass(frozen=True)
class EntryKind:
    """How the cache's entry for one layer is made."""

    entry: type[Any]
    options: dict[str, Any]

    @property
    def can_truncate(self) -> bool:
        """Whether rows can be taken back out of it. A recurrent layer keeps one state, which cannot be undone."""
        recurrent_or_short = (LinearAttentionCacheLayerMixin, DynamicSlidingWindowLayer)
        return self.entry.is_croppable is True and not issubclass(self.entry, recurrent_or_short)


def entry_kinds(config: PretrainedConfig) -> list[EntryKind]:
    """The kinds for all layers of the whole model that `config` describes.

    Raises:
        UnsupportedModel: a layer of a kind that transformers has no entry for.
    """
    kinds, options = get_layer_types_and_kwargs(config.get_text_config(decoder=True))
    unknown = set(kinds) - DYNAMIC_LAYER_TYPE_MAPPING.keys()
    if unknown:
        raise UnsupportedModel(f"{config.model_type}: transformers has no cache for layers of the kind {min(unknown)}")
    entries = [DYNAMIC_LAYER_TYPE_MAPPING[_WITHOUT_WINDOW.get(kind, kind)] for kind in kinds]
    return [EntryKind(entry, given) for entry, given in zip(entries, options, strict=True)]


class PartCache(DynamicCache):  # type: ignore[misc]  # transformers has no types
    """One session's cache in one part: an entry for each of the part's layers, in order."""

    def __init__(self, kinds: Sequence[EntryKind]) -> None:
        Cache.__init__(self, layers=[kind.entry(**kind.options) for kind in kinds])
        self.n_rows = 0
        """Rows that the session holds before the current forward; kept by the part that runs with the cache."""
        self._attends = any(isinstance(layer, CacheLayerMixin) for layer in self.layers)

    def truncate(self, position: int) -> None:
        """Keeps the first `position` rows; entries that hold fewer stay as they are. Not for entries that cannot."""
        for layer in self.layers:
            excess = layer.get_seq_length() - position if isinstance(layer, CacheLayerMixin) else 0
            if excess > 0:
                layer.crop(-excess)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        # layers without attention do not count rows, and a part may have no others
        return int(super().get_seq_length(layer_idx)) if self._attends else self.n_rows

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        if not self._attends:
            return self.n_rows + query_length, 0
        rows, offset = super().get_mask_sizes(query_length, layer_idx)
        return rows, offset
