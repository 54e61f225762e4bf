"""What a request does to logits before a token is chosen: bans, biases and penalties.

They change an array of their own in place, by numpy: torch would wake its threads for a vocabulary, which takes longer
than the work, and much longer where other programs have the cores.

Shapes: V vocabulary, S tokens that were seen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import RepetitionPenaltyLogitsProcessor

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Beginning:
    """An answer's first tokens, of which none is an end token.

    `prompt` is how many tokens the answer follows, `tokens` how many they are.
    """

    prompt: int = 0
    tokens: int = 0
    end_tokens: frozenset[int] = frozenset()


class LogitsProcessor(Protocol):
    """Of one answer, whose ids only grow."""

    def __call__(self, ids: Sequence[int], scores_V: Floats) -> None:
        """Changes the scores of what follows `ids`, the prompt's too. The same ids may be asked for twice in a row."""


class OnlyThese:
    """Bans all tokens but some."""

    def __init__(self, allowed: frozenset[int]) -> None:
        self._allowed = np.array(sorted(allowed), dtype=np.int64)

    def __call__(self, ids: Sequence[int], scores_V: Floats) -> None:
        allowed = _within(self._allowed, scores_V)
        kept = scores_V[allowed]
        scores_V.fill(-np.inf)
        scores_V[allowed] = kept


class NoBadWords:
    """Bans the last token of each word whose tokens before it end the answer. transformers' own searches the prompt
    too."""

    def __init__(self, words: Sequence[Sequence[int]], n_prompt: int) -> None:
        self._words = [(tuple(word[:-1]), word[-1]) for word in words]
        self._n_prompt = n_prompt
        self._n_most = max(map(len, words)) - 1

    def __call__(self, ids: Sequence[int], scores_V: Floats) -> None:
        last = tuple(ids[max(self._n_prompt, len(ids) - self._n_most) :])
        banned = {token for before, token in self._words if not before or last[-len(before) :] == before}
        scores_V[_within(np.array(sorted(banned), dtype=np.int64), scores_V)] = -np.inf


class TokenBias:
    """Adds to the logits of some tokens."""

    def __init__(self, biases: Mapping[int, float]) -> None:
        self._tokens = np.array(list(biases), dtype=np.int64)
        self._biases = np.array(list(biases.values()), dtype=np.float32)

    def __call__(self, ids: Sequence[int], scores_V: Floats) -> None:
        known = self._tokens < scores_V.size
        scores_V[self._tokens[known]] += self._biases[known]


class NoEnd:
    """Bans the end tokens. transformers' own searches them for each token of the vocabulary: 10 ms for a large one."""

    def __init__(self, beginning: Beginning) -> None:
        self._until = beginning.prompt + beginning.tokens
        self._ends = np.array(sorted(beginning.end_tokens), dtype=np.int64)

    def __call__(self, ids: Sequence[int], scores_V: Floats) -> None:
        if len(ids) < self._until:
            scores_V[self._ends] = -np.inf


class RepetitionPenalty:
    """transformers' own, which gets the logits of tokens that were seen, and not all."""

    def __init__(self, penalty: float) -> None:
        self._penalty: Final[Any] = RepetitionPenaltyLogitsProcessor(penalty)
        self._n_seen = 0
        self._seen_S = np.empty(0, dtype=np.int64)

    def __call__(self, ids: Sequence[int], scores_V: Floats) -> None:
        self._seen_S = np.union1d(self._seen_S, np.array(ids[self._n_seen :], dtype=np.int64))
        self._n_seen = len(ids)
        seen_S = _within(self._seen_S, scores_V)
        seen_1S = torch.from_numpy(scores_V[seen_S])[None]
        scores_V[seen_S] = self._penalty(torch.arange(seen_S.size)[None], seen_1S)[0].numpy()


class AnswerPenalty:
    """OpenAI's two penalties on the answer's tokens, which transformers does not have."""

    def __init__(self, frequency: float, presence: float, n_prompt: int) -> None:
        self._frequency, self._presence = frequency, presence
        self._n_counted = n_prompt
        self._penalties: dict[int, float] = {}

    def __call__(self, ids: Sequence[int], scores_V: Floats) -> None:
        for token in ids[self._n_counted :]:
            self._penalties[token] = self._penalties.get(token, self._presence) + self._frequency
        self._n_counted = max(self._n_counted, len(ids))
        tokens = np.fromiter(self._penalties, dtype=np.int64, count=len(self._penalties))
        scores_V[tokens] -= np.fromiter(self._penalties.values(), dtype=np.float32, count=len(self._penalties))


class Temperature:
    """Divides the logits, so that they are further apart or closer together."""

    def __init__(self, temperature: float) -> None:
        self._temperature = np.float32(temperature)

    def __call__(self, ids: Sequence[int], scores_V: Floats) -> None:
        np.divide(scores_V, self._temperature, out=scores_V)


def _within(tokens: NDArray[np.int64], scores_V: Floats) -> NDArray[np.int64]:
    """Some models have fewer logits than embeddings."""
    return tokens[tokens < scores_V.size]
