"""One vector of all hidden states of a text, while they come.

Shapes: T rows, D hidden size.
"""

from typing import Final

import torch

from splitlearn.model.part import Wanted
from splitlearn_client.errors import BrokenNumbers
from splitlearn_client.pooling_config import Mode

# frames are smaller: they have a bound in bytes of their own
_ROWS_AT_ONCE: Final = 1 << 16
_WEIGHTED: Final = ("mean", "mean_sqrt_len_tokens", "weightedmean")


class Pooler:
    """Pools rows as they come, and keeps one row. `add` is called on the device thread.

    Rows that come again are the same, and counted once.

    Args:
        n_skipped: rows of a prompt at the beginning that do not count; some row has to follow them.
    """

    wanted: Wanted = "hidden"

    def __init__(self, mode: Mode, n_skipped: int = 0) -> None:
        self._mode = mode
        self._n_skipped = n_skipped
        self._reached = 0
        self._pooled: torch.Tensor | None = None
        self._weight = 0.0

    @staticmethod
    def rows_at_once(_vocabulary: int) -> int:
        """How many rows may be run at once."""
        return _ROWS_AT_ONCE

    def add(self, position: int, hidden_TD: torch.Tensor) -> None:
        """Adds the rows from `position` on."""
        end = position + hidden_TD.shape[0]
        start = max(position, self._reached, self._n_skipped)
        self._reached = max(end, self._reached)
        if start < end:
            self._take(start, hidden_TD[start - position :])

    def vector(self) -> torch.Tensor:
        """The pooled row [D] in fp32. Raises BrokenNumbers."""
        if self._pooled is None:
            raise RuntimeError("no row has come")
        pooled_D = self._pooled
        if self._mode in _WEIGHTED:
            pooled_D = pooled_D / (self._weight**0.5 if self._mode == "mean_sqrt_len_tokens" else self._weight)
        if not bool(pooled_D.isfinite().all()):
            raise BrokenNumbers(
                "the model's hidden states hold NaN or infinity; check the weights with `splitlearn inspect --verify`, "
                "or run client and trunk in another dtype"
            )
        return pooled_D.float()

    def _take(self, start: int, hidden_TD: torch.Tensor) -> None:
        if self._mode in _WEIGHTED:
            weights_T = torch.ones(hidden_TD.shape[0])
            if self._mode == "weightedmean":
                weights_T = torch.arange(start + 1, start + 1 + hidden_TD.shape[0], dtype=torch.float)
            new_D = (weights_T[:, None] * hidden_TD).sum(dim=0, dtype=torch.float64)
            self._pooled = new_D if self._pooled is None else self._pooled + new_D
            self._weight += float(weights_T.sum())
        elif self._mode == "max":
            new_D = hidden_TD.amax(dim=0)
            self._pooled = new_D if self._pooled is None else torch.maximum(self._pooled, new_D)
        elif self._mode == "lasttoken":
            self._pooled = hidden_TD[-1].clone()
        elif self._pooled is None:
            self._pooled = hidden_TD[0].clone()


def needs_all_rows(mode: Mode) -> bool:
    """Whether rows that the parts have cached must be computed again."""
    return mode != "lasttoken"


def shortened(vector_D: torch.Tensor, dimensions: int | None, *, is_normalized: bool) -> torch.Tensor:
    """The first `dimensions` numbers of a vector, or all; of length 1 if it is to be normalised."""
    kept = vector_D if dimensions is None else vector_D[:dimensions]
    return torch.nn.functional.normalize(kept, dim=0) if is_normalized else kept
