"""What models call the cache that they are given, and what transformers' caches are made of."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from transformers import Cache, PretrainedConfig
from transformers.cache_utils import (
    DYNAMIC_LAYER_TYPE_MAPPING,
    CacheLayerMixin,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionCacheLayerMixin,
    get_layer_types_and_kwargs,
)
from transformers.modeling_outputs import BaseModelOutputWithPast

CACHE_NAMES = ("cache", "past_key_values", "cache_params")
"""What models call the cache that they are given and give back: the first from transformers 5.24 on, the last before it
where all layers are recurrent. Models that others wrote may keep the older names."""
CACHE_NAME = next(field.name for field in fields(BaseModelOutputWithPast) if field.name in CACHE_NAMES)
"""What most of transformers' own models call it."""
# Layers with a window keep all their rows and leave the window to the mask: any row can then be taken back.
_WITHOUT_WINDOW = {
    "sliding_attention": "full_attention",
    "chunked_attention": "full_attention",
    "hybrid_sliding": "hybrid",
}


def cache_argument(forward: Callable[..., Any]) -> str | None:
    """What this forward calls the cache that it is given; None if it takes none."""
    arguments = inspect.signature(forward).parameters
    return next((name for name in CACHE_NAMES if name in arguments), None)


def named_cache(cache: Any) -> dict[str, Any]:
    """The keyword argument that transformers' own models, layers and attention take the cache as."""
    return {CACHE_NAME: cache}


def cache_in(arguments: Mapping[str, Any]) -> Any:
    """The cache among the keyword arguments of a module that transformers calls; None if there is none."""
    cache = arguments.get("cache")
    return arguments.get("past_key_values") if cache is None else cache


def layer_types(config: PretrainedConfig) -> list[str]:
    """The type of each entry that a cache for this model has."""
    return list(get_layer_types_and_kwargs(config.get_text_config(decoder=True))[0])


def entry_classes(config: PretrainedConfig) -> list[tuple[type[Any], dict[str, Any]]]:
    """The class of each entry that a cache for this model has, and its arguments.

    Raises:
        LookupError: a layer of a type that transformers has no entry for; its argument is the type.
    """
    kinds, options = get_layer_types_and_kwargs(config.get_text_config(decoder=True))
    unknown = set(kinds) - DYNAMIC_LAYER_TYPE_MAPPING.keys()
    if unknown:
        raise LookupError(min(unknown))
    classes = [DYNAMIC_LAYER_TYPE_MAPPING[_WITHOUT_WINDOW.get(kind, kind)] for kind in kinds]
    return list(zip(classes, options, strict=True))


def fill_cache(cache: Cache, entries: Sequence[Any]) -> None:
    """Gives a new cache its entries, in place of those that its class would make."""
    Cache.__init__(cache, layers=list(entries))


def counts_rows(entry: type[Any]) -> bool:
    """Whether entries of this class keep rows and know how many."""
    return issubclass(entry, CacheLayerMixin)


def can_crop(entry: type[Any]) -> bool:
    """Whether rows can be taken back out of entries of this class, whatever they hold.

    A recurrent layer keeps one state, which cannot be undone, and one with a window has lost what lies behind it.
    """
    recurrent_or_short = (LinearAttentionCacheLayerMixin, DynamicSlidingWindowLayer)
    return entry.is_croppable is True and not issubclass(entry, recurrent_or_short)


def keeps_plain_kv(entry: type[Any]) -> bool:
    """Whether entries of this class keep all keys and values as they come, and nothing else."""
    return entry is DynamicLayer
