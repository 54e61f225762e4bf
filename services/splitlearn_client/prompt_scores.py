"""The log-probabilities of a prompt's own tokens, each after those before it.

Shapes: T rows, V vocabulary, K alternatives.
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch

from splitlearn.model.part import Wanted
from splitlearn_client.sampling import Choice, check_numbers, widened

# of fp32; a piece of the prompt whose logits are larger is not run at once
_LOGITS_AT_ONCE: Final = 1 << 23
# of a token that the model rules out, as JSON has no infinity; OpenAI's and vLLM's number for it
_LEAST: Final = -9999.0
_BLOCK: Final = 256


class PromptScores:
    """Collects them while the prompt is run. `add` is called on the device thread.

    Args:
        ids: the prompt.
        n_alternatives: how many likeliest tokens to keep for each position.
    """

    wanted: Wanted = "all"

    def __init__(self, ids: Sequence[int], n_alternatives: int) -> None:
        self._ids = ids
        self._n_alternatives = n_alternatives
        self._found: dict[int, Choice] = {}

    @staticmethod
    def rows_at_once(vocabulary: int) -> int:
        """How many rows of the prompt may be run at once, so that their logits take little memory."""
        return max(1, _LOGITS_AT_ONCE // vocabulary)

    def add(self, position: int, logits_TV: torch.Tensor) -> None:
        """Adds what the rows from `position` on say of the tokens that follow them. Raises BrokenNumbers."""
        following = self._ids[position + 1 : position + 1 + logits_TV.shape[0]]
        for number, (token, logits_V) in enumerate(zip(following, logits_TV, strict=False), start=position + 1):
            # row by row: one row's numbers stay in the processor's cache
            self._found[number] = self._scored(token, widened(logits_V))

    def _scored(self, token: int, scores_V: torch.Tensor) -> Choice:
        check_numbers(scores_V)
        total = float(scores_V.logsumexp(dim=0))
        # some models have fewer logits than embeddings
        own = float(scores_V[token]) if token < scores_V.shape[0] else -math.inf
        rank = 1 + int(np.count_nonzero(scores_V.numpy() > own))
        values_K, indices_K = _likeliest(scores_V, min(self._n_alternatives, scores_V.shape[0]))
        likely = zip(indices_K.tolist(), values_K.tolist(), strict=True)
        kept = tuple((index, value - total) for index, value in likely if value > -math.inf)
        return Choice(token, max(own - total, _LEAST), kept, rank)

    def choices(self) -> list[Choice]:
        """All tokens of the prompt but the first, as if they had been chosen."""
        return [self._found[number] for number in range(1, len(self._ids))]


def _likeliest(scores_V: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """As `topk`, several times as quick for a large vocabulary: they are in the blocks with the largest maxima."""
    n_blocks = scores_V.shape[0] // _BLOCK
    if not 0 < count < n_blocks:
        values_K, indices_K = scores_V.topk(count)
        return values_K, indices_K
    n_whole = n_blocks * _BLOCK
    blocks = scores_V[:n_whole].view(n_blocks, _BLOCK).amax(dim=1).topk(count).indices
    inside = (blocks[:, None] * _BLOCK + torch.arange(_BLOCK)).flatten()
    candidates = torch.cat([inside, torch.arange(n_whole, scores_V.shape[0])])
    values_K, found_K = scores_V[candidates].topk(count)
    return values_K, candidates[found_K]
