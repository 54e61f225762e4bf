"""The log-probabilities of a prompt's own tokens, each after those before it.

Shapes: T rows, V vocabulary.
"""

from collections.abc import Sequence
from typing import Final

import torch

from splitlearn_client.sampling import Choice, check_numbers, widened

# of fp32; a piece of the prompt whose logits are larger is not run at once
_LOGITS_AT_ONCE: Final = 1 << 23


class PromptScores:
    """Collects them while the prompt is run. `add` is called on the device thread.

    Args:
        ids: the prompt.
        n_alternatives: how many likeliest tokens to keep for each position.
    """

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
        if not following:
            return
        logprobs_TV = widened(logits_TV[: len(following)])
        check_numbers(logprobs_TV)
        logprobs_TV = logprobs_TV.log_softmax(dim=-1)
        chosen_T1 = logprobs_TV.gather(-1, torch.tensor(following)[:, None])
        ranks = (1 + (logprobs_TV > chosen_T1).sum(dim=-1)).tolist()
        values_TK, indices_TK = logprobs_TV.topk(min(self._n_alternatives, logprobs_TV.shape[-1]))
        likely = zip(indices_TK.tolist(), values_TK.tolist(), strict=True)
        rows = zip(following, chosen_T1[:, 0].tolist(), ranks, likely, strict=True)
        for number, (token, logprob, rank, (indices, values)) in enumerate(rows, start=position + 1):
            kept = tuple(each for each in zip(indices, values, strict=True) if each[1] > -torch.inf)
            self._found[number] = Choice(token, logprob, kept, rank)

    def choices(self) -> list[Choice]:
        """All tokens of the prompt but the first, as if they had been chosen."""
        return [self._found[number] for number in range(1, len(self._ids))]
