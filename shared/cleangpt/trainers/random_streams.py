"""The random sources that every program shares, torch's, numpy's and Python's own, as streams that disturb no other."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

_NUMPY_SEEDS = 2**32


class RandomStream:
    """Random numbers that depend on `seed` alone, for what is done inside `with stream.drawn():`, all times together.

    What is drawn outside is not shifted by it. GPUs' sources are left alone: data are made on the CPU.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._state: Any = None

    @contextmanager
    def drawn(self) -> Iterator[None]:
        """The shared sources are this stream's until the context ends."""
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


def seed_everything(seed: int) -> None:
    """Seeds the shared sources, those of GPUs included."""
    torch.manual_seed(seed)
    _seed_shared(seed)


def _seed_shared(seed: int) -> None:
    torch.default_generator.manual_seed(seed)
    # the way to reach what others draw with np.random.rand and the like
    np.random.seed(seed % _NUMPY_SEEDS)
    random.seed(seed)


def _captured() -> Any:
    return torch.get_rng_state(), np.random.get_state(), random.getstate()


def _restore(state: Any) -> None:
    torch.set_rng_state(state[0])
    np.random.set_state(state[1])
    random.setstate(state[2])
