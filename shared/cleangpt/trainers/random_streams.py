"""Independent random streams on top of the global generators of torch, numpy and Python."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

_NUMPY_SEEDS = 2**32
_TORCH_SEEDS = 2**64


class RandomStream:
    """A random stream that depends on `seed` alone, for code inside `with stream.drawn():`; each block continues it.

    It does not shift what is drawn outside. The generators of GPUs are left alone, because data is made on the CPU.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._state: Any = None

    @contextmanager
    def drawn(self) -> Iterator[None]:
        """Makes the global generators draw from this stream until the context ends."""
        outer = _captured()
        if self._state is None:
            _seed_shared(self._seed)
        else:
            _restore(self._state)
        try:
            yield
        finally:
            self._state = _captured()
            _restore(outer)


def torch_seed(seed: int) -> int:
    """Any whole number as one that torch's generators take; smaller than 2^64 and not negative, it stays the same."""
    return seed % _TORCH_SEEDS


def seed_everything(seed: int) -> None:
    """Seeds the global generators, including those of GPUs."""
    torch.manual_seed(torch_seed(seed))
    _seed_shared(seed)


def _seed_shared(seed: int) -> None:
    torch.default_generator.manual_seed(torch_seed(seed))
    # the legacy call, because it seeds np.random.rand and the like
    np.random.seed(seed % _NUMPY_SEEDS)
    random.seed(seed)


def _captured() -> Any:
    return torch.get_rng_state(), np.random.get_state(), random.getstate()


def _restore(state: Any) -> None:
    torch.set_rng_state(state[0])
    np.random.set_state(state[1])
    random.setstate(state[2])
