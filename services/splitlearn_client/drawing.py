"""Draws tokens: the likeliest ones that the filters leave, and a random number for each choice.

transformers' filters say what is left. They sort all tokens, which for a large vocabulary takes as long as a step of a
small model, so they get only those that may be left: the others could not be, whatever their order.

Shapes: V vocabulary, C candidates.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import LogitsProcessorList, MinPLogitsWarper, TopPLogitsWarper

from splitlearn_client.logits_processors import Floats

_BLOCK: Final = 512
# shares of the likeliest token's probability: above one of them there are mostly few tokens, with nearly all of it
_BOUNDS: Final = tuple(10.0**-n for n in range(1, 8))
_NO_IDS: Final = torch.empty(1, 0, dtype=torch.long)


@dataclass(frozen=True)
class Filters:
    """Which tokens may be drawn: of the `top_k` likeliest (0: of all) the fewest that together have `top_p` of the
    probability, and of those the ones that are at least `min_p` times as likely as the likeliest."""

    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0


def draw(scores_V: Floats, filters: Filters, share: float) -> int:
    """The token in which the share of the probability that the filters leave ends, in the order of the vocabulary.

    Args:
        scores_V: logits; minus infinity for tokens that may not come. At least one may.
        share: from 0 up to, not including, 1, drawn at random.
    """
    if (found := _candidates(scores_V, filters)) is None:
        return _where_it_ends(scores_V, share)
    tokens_C, left = found
    left_1C = left(_NO_IDS, torch.from_numpy(scores_V[tokens_C])[None])
    return int(tokens_C[_where_it_ends(left_1C[0].numpy(), share)])


def _candidates(scores_V: Floats, filters: Filters) -> tuple[NDArray[np.int64], LogitsProcessorList] | None:
    """All tokens that may be left, and what filters them; None where all are left."""
    processors, top_p = LogitsProcessorList(), filters.top_p
    if 0 < filters.top_k < scores_V.size:
        # tokens that are as likely as the last of them stay too, as in transformers
        bound = np.partition(scores_V, -filters.top_k)[-filters.top_k]
        tokens_C = np.flatnonzero(scores_V >= max(bound, np.finfo(np.float32).min))
    elif top_p < 1:
        tokens_C, share = _likeliest(scores_V, top_p)
        # the rest is less likely than each of them, so that it is as if they had been cut off before
        top_p /= share
    elif filters.min_p > 0:
        # a little less, as the filter rounds otherwise
        tokens_C = np.flatnonzero(_weights(scores_V) >= 0.99 * filters.min_p)
    else:
        return None
    if top_p < 1:
        processors.append(TopPLogitsWarper(top_p))
    if filters.min_p > 0:
        processors.append(MinPLogitsWarper(filters.min_p))
    return tokens_C, processors


def _likeliest(scores_V: Floats, top_p: float) -> tuple[NDArray[np.int64], float]:
    """The tokens above a bound that have at least that share of the probability, and what share they have."""
    weights_V = _weights(scores_V)
    total = float(weights_V.sum())
    for bound in _BOUNDS:
        tokens_C = np.flatnonzero(weights_V >= bound)
        share = float(weights_V[tokens_C].sum()) / total
        if top_p <= share <= 1:
            return tokens_C, share
    return np.arange(scores_V.size), 1.0


def _where_it_ends(scores_V: Floats, share: float) -> int:
    """See `draw`. Block by block: one sum after another would take longer than all else."""
    weights_V = _weights(scores_V)
    sums = np.cumsum(np.add.reduceat(weights_V, np.arange(0, weights_V.size, _BLOCK)), dtype=np.float64)
    left = share * sums[-1]
    block = int(np.searchsorted(sums, left, side="right"))
    first = block * _BLOCK
    ends = np.cumsum(weights_V[first : first + _BLOCK], dtype=np.float64)
    within = int(np.searchsorted(ends, left - (sums[block - 1] if block else 0.0), side="right"))
    # sums are rounded: behind the last token with a probability there is none
    return first + min(within, int(np.flatnonzero(weights_V[first : first + _BLOCK])[-1]))


def _weights(scores_V: Floats) -> Floats:
    weights_V: Floats = np.exp(scores_V - scores_V.max())
    return weights_V
