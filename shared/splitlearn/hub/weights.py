"""What a service is given as its weights: a directory on this machine, or the name of a model on the hub."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from llm_sepweight import PartSpec
from splitlearn.hub.model import Bar, no_bar
from splitlearn.hub.names import name_of
from splitlearn.hub.opening import open_named
from splitlearn.hub.stopping import Stop
from splitlearn.hub.store import Cache


class Weights(Protocol):
    """A sepweight directory, and how what a part needs comes into it."""

    @property
    def directory(self) -> Path:
        """With a manifest; of a directory given by its path perhaps without."""

    def missing(self, parts: Iterable[PartSpec]) -> list[str]:
        """The sections that `fetch` would fetch."""

    def fetch(self, parts: Iterable[PartSpec], bar: Bar = no_bar, stop: Stop | None = None) -> None:
        """Sees to it that the parts can be loaded, as far as that is up to it. Blocks."""


@dataclass(frozen=True)
class LocalWeights:
    """A directory that is there as a whole, or as far as its owner copied it."""

    directory: Path

    def missing(self, parts: Iterable[PartSpec]) -> list[str]:
        """Nothing is fetched."""
        return []

    def fetch(self, parts: Iterable[PartSpec], bar: Bar = no_bar, stop: Stop | None = None) -> None:
        """Nothing to do: loading says what is missing."""


def open_weights(
    given: Path, cache_dir: Path | None = None, *, tokenizer: bool = False, stop: Stop | None = None
) -> Weights:
    """The directory, or the named model, of which nothing but the tokenizer and what it is has been fetched. Blocks.

    Args:
        cache_dir: where named models are kept; None takes the user's cache.
        tokenizer: whether a named model's tokenizer is wanted.

    Raises:
        HubError, SplitError: as `open_named`.
    """
    name = name_of(given)
    return (
        LocalWeights(given) if name is None else open_named(name, Cache.at(cache_dir), tokenizer=tokenizer, stop=stop)
    )


async def opened(given: Path, cache_dir: Path | None = None, *, tokenizer: bool = False) -> Weights:
    """`open_weights` on a thread, which ends soon after this is cancelled."""
    stop = Stop()
    try:
        return await asyncio.to_thread(open_weights, given, cache_dir, tokenizer=tokenizer, stop=stop)
    finally:
        stop.set()


async def fetched(weights: Weights, parts: Iterable[PartSpec], bar: Bar = no_bar) -> None:
    """`Weights.fetch` on a thread, which ends soon after this is cancelled."""
    stop = Stop()
    try:
        await asyncio.to_thread(weights.fetch, parts, bar, stop)
    finally:
        stop.set()
