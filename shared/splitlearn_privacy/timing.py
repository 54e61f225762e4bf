"""What times of frames tell beside their sizes: which of some answers is being written, by a recording of each.

The observer names the text of the nearest recording. Sizes and numbers of messages come first, as they are exact, and
times decide among those that are as near. Pure.

Shapes: N answers, M messages of the longest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from splitlearn_privacy.recording import Recorded, Setup
from splitlearn_privacy.scoring import Share

_MOST_APART: Final = 1.0
"""How far apart two messages' times count as being at most, as logarithms: of a message that something held up, nothing
is known but that."""
_SHORTEST: Final = 1e-9


@dataclass(frozen=True)
class Timing:
    """How often an observer names the text, of `n_texts`, by another recording of each: by sizes of messages, by the
    number of messages and the times between them, and by all of it. Of recordings that are as near it names any.
    """

    n_texts: int
    setup: Setup
    by_sizes: Share
    by_times: Share
    by_both: Share


def timing(setup: Setup, some: Sequence[Recorded], others: Sequence[Recorded]) -> Timing:
    """What an observer makes of each recording who has that of each answer from the other time."""
    both = some, others
    longest = max(len(each.sizes) for each in (*some, *others))
    sizes_NM, other_sizes_NM = (np.stack([_sizes(each, longest) for each in time]) for time in both)
    times_NM, other_times_NM = (np.stack([_times(each, longest) for each in time]) for time in both)
    number_N, other_number_N = (np.array([len(each.sizes) for each in time]) for time in both)
    sizes_NN = (sizes_NM[:, None] != other_sizes_NM[None]).sum(-1)
    times_NN = np.minimum(np.abs(times_NM[:, None] - other_times_NM[None]), _MOST_APART).sum(-1)
    number_NN = np.abs(number_N[:, None] - other_number_N[None])
    pairs = (sizes_NN, np.zeros_like(times_NN)), (number_NN, times_NN), (sizes_NN, times_NN)
    return Timing(len(some), setup, *(_share(*pair) for pair in pairs))


def _sizes(recorded: Recorded, longest: int) -> NDArray[np.int64]:
    return np.pad(np.array(recorded.sizes), (0, longest - len(recorded.sizes)))


def _times(recorded: Recorded, longest: int) -> NDArray[np.float64]:
    """Logarithms of the seconds between messages; 0 behind the last."""
    seconds = np.maximum(np.diff(recorded.times), _SHORTEST)
    return np.pad(np.log(seconds), (0, longest - 1 - len(seconds)))


def _share(first_NN: NDArray[np.int64], then_NN: NDArray[np.float64]) -> Share:
    """Of texts that are named, by how far apart recordings are: first by one, and where that is the same by the other.

    Those of each time are named by those of the other.
    """
    return Share.over_texts((_named(first_NN, then_NN) + _named(first_NN.T, then_NN.T)) / 2)


def _named(first_NN: NDArray[np.int64], then_NN: NDArray[np.float64]) -> NDArray[np.float64]:
    """[N]: how likely the text of each row is named."""
    is_candidate_NN = first_NN == first_NN.min(axis=1, keepdims=True)
    then_NN = np.where(is_candidate_NN, then_NN, np.inf)
    is_nearest_NN = then_NN == then_NN.min(axis=1, keepdims=True)
    named_N: NDArray[np.float64] = np.diag(is_nearest_NN) / is_nearest_NN.sum(axis=1)
    return named_N
