"""The cut model and the whole one behind the same two calls, so that tests can compare them."""

from collections.abc import Callable
from pathlib import Path

import torch
from transformers import DynamicCache, PreTrainedModel

from splitlearn.checkpoints import load as loading
from splitlearn.model.part import Part
from splitlearn.model.plan import SplitPlan
from splitlearn.runner.batched import BatchedRunner
from splitlearn.runner.interface import SequenceInput
from splitlearn.runner.select import runner_for
from splitlearn.runner.sequential import SequentialRunner
from support.tiny_models import VOCABULARY


class Chain:
    """The three parts one after the other, for one session."""

    def __init__(self, parts: list[Part]) -> None:
        self._parts = parts
        self._caches = [part.new_cache() for part in parts]
        self._position = 0

    def append(self, ids_T: torch.Tensor) -> torch.Tensor:
        rows = ids_T
        for part, cache in zip(self._parts, self._caches, strict=True):
            rows = part(rows, self._position, cache)
        self._position += ids_T.shape[0]
        return rows

    def truncate(self, position: int) -> None:
        for cache in self._caches:
            cache.truncate(position)
        self._position = position


class Together:
    """Several sessions of the three parts, whose rows run in the same steps as far as the parts allow it."""

    def __init__(
        self,
        parts: list[Part],
        n_sessions: int,
        runner: Callable[[Part], BatchedRunner | SequentialRunner] = runner_for,
    ) -> None:
        self.runners = [runner(part) for part in parts]
        self._kvs = [[runner.new_kv(None) for runner in self.runners] for _ in range(n_sessions)]
        self._positions = [0] * n_sessions

    def append(self, chunks: dict[int, torch.Tensor]) -> dict[int, torch.Tensor]:
        """What comes out for each of the sessions that these rows are for."""
        rows = list(chunks.values())
        for i, runner in enumerate(self.runners):
            rows = runner.run(
                [SequenceInput(self._kvs[n][i], self._positions[n], own) for n, own in zip(chunks, rows, strict=True)]
            )
        for n, ids_T in chunks.items():
            self._positions[n] += ids_T.shape[0]
        return dict(zip(chunks, rows, strict=True))

    def truncate(self, session: int, position: int) -> None:
        kvs = self._kvs[session]
        self._kvs[session] = [runner.truncate(kv, position) for runner, kv in zip(self.runners, kvs, strict=True)]
        self._positions[session] = position


class Whole:
    """The same interface over the uncut model."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._cache = DynamicCache()

    @torch.inference_mode()
    def append(self, ids_T: torch.Tensor) -> torch.Tensor:
        return self._model(ids_T[None], past_key_values=self._cache, use_cache=True).logits[0, -1]


def load_parts(weights: Path, plan: SplitPlan, *, device: str = "cpu") -> list[Part]:
    return loading.load_parts(weights, [plan.bottom, plan.trunk, plan.top], device=device)


def prompt(length: int) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (length,), generator=torch.Generator().manual_seed(length))


def decode(session: Chain | Whole, first: torch.Tensor, n: int) -> tuple[list[int], list[torch.Tensor]]:
    """Greedy tokens and the logits that they were chosen from."""
    logits = [first]
    tokens = [int(first.argmax())]
    for _ in range(n - 1):
        logits.append(session.append(torch.tensor(tokens[-1:], device=first.device)))
        tokens.append(int(logits[-1].argmax()))
    return tokens, logits
