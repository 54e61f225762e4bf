"""The likeliest tokens' logits without reading the whole head: weights in 8 bits say which tokens may be among them.

The head is the largest weight of small models, and one row reads all of it. Rounded to 8 bits it is half as large. By
how much a rounded logit is off is bounded by the length of the hidden state times that of the weight's rounding error
(Cauchy-Schwarz). So tokens whose rounded logit is too small cannot be among the likeliest, and only the others' weights
are read as they are.

Shapes: R rows, K inputs, N outputs, P panels of 16 outputs.
"""

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from splitlearn.backends.cpu.huge_pages import Span
from splitlearn.backends.cpu.linear.int4 import PANEL
from splitlearn.backends.cpu.linear.native import NativeInt8Linear, NativeLinear

# of all panels; beyond it the whole head is read, which takes no longer
_MOST: Final = 1 / 16
# weights of the head from which on a screen pays
_FEWEST_WEIGHTS: Final = 2**24
# outputs whose largest stands for them where the n-th largest of all is bounded from below
_BLOCK: Final = 64
# outputs of which rounding errors are measured at a time
_AT_ONCE: Final = 8192
# logits are rounded to bf16, exact ones and those of the screen
_ROUNDING: Final = 2.0**-6

Floats = NDArray[np.float32]


class Screen:
    """Of one head. Takes half the memory of its weight beside it.

    Args:
        head: multiplies by the exact weight.
    """

    def __init__(self, head: NativeLinear) -> None:
        self._head = head
        weight_NK = head.weight
        self._rounded = NativeInt8Linear(weight_NK)
        self._reach_N = _reach(weight_NK, self._rounded.weight)

    @staticmethod
    def supports(head: object) -> bool:
        """Whether there may be a screen of it, and it pays."""
        if type(head) is not NativeLinear or head.bias is not None:
            return False
        fits = head.in_features <= NativeInt8Linear.MOST_INPUTS
        return fits and screen_bytes(head.out_features, head.in_features) > 0

    @property
    def span(self) -> Span:
        """Where the rounded weight lies in memory."""
        return self._rounded.span

    def likeliest(self, rows_RK: torch.Tensor, count: int) -> torch.Tensor | None:
        """Logits [R, N]: exact for the `count` largest of each row and those that are equal to the smallest of them;
        minus infinity, or exact, for the others. None where too many outputs may be among them.
        """
        rounded_RN = _widened(self._rounded(rows_RK))
        lengths_R = torch.linalg.vector_norm(rows_RK.float(), dim=1).tolist()
        found = [
            self._exact(row_1K, rounded_N, self._reach_N * length, count)
            for row_1K, rounded_N, length in zip(torch.split(rows_RK, 1), rounded_RN, lengths_R, strict=True)
        ]
        exact = [logits_1N for logits_1N in found if logits_1N is not None]
        return torch.cat(exact) if len(exact) == len(found) else None

    def _exact(self, row_1K: torch.Tensor, rounded_N: Floats, reach_N: Floats, count: int) -> torch.Tensor | None:
        # NaN and infinity pass: the whole head then shows them
        with np.errstate(invalid="ignore"):
            bound = _nth_largest(rounded_N - reach_N, count)
            is_less_N = rounded_N + reach_N < bound - _ROUNDING * abs(bound)
        panels_P = np.unique(np.flatnonzero(~is_less_N) // PANEL)
        n_panels = -(-self._head.out_features // PANEL)
        if panels_P.size > _MOST * n_panels:
            return None
        indices_P = torch.from_numpy(panels_P)
        logits_PO = torch.full((n_panels, PANEL), -torch.inf, dtype=row_1K.dtype)
        logits_PO[indices_P] = self._head.of_panels(row_1K, indices_P).view(-1, PANEL)
        return logits_PO.view(1, -1)[:, : self._head.out_features]


def screen_bytes(n_outputs: int, n_inputs: int) -> int:
    """Memory of the screen of a head in bf16; 0 where the head is so small that there is none."""
    # a level for each weight; for each output a scale of two bytes, a sum of levels and a reach
    n_weights = n_outputs * n_inputs
    return n_weights + 10 * n_outputs if n_weights >= _FEWEST_WEIGHTS else 0


def _reach(weight_NK: torch.Tensor, rounded_NK: torch.Tensor) -> Floats:
    """By how much a rounded output is off at most, for a row of length 1; fp32 [N].

    The kernel also rounds rows, to 16-bit numbers of their largest number's size, and both kernels sum in fp32.
    """
    n_outputs, n_inputs = weight_NK.shape
    others = n_inputs**0.5 / 2**15 + n_inputs / 2**23
    reach_N = torch.empty(n_outputs)
    for first in range(0, n_outputs, _AT_ONCE):
        some = slice(first, first + _AT_ONCE)
        exact, rounded = weight_NK[some].float(), rounded_NK[some].float()
        reach_N[some] = (exact - rounded).norm(dim=1) + others * exact.norm(dim=1)
    return reach_N.numpy()


def _nth_largest(numbers_N: Floats, count: int) -> float:
    """The largest if `count` is 1; else a number that no more than the n-th largest is."""
    if count == 1:
        return float(numbers_N.max())
    largest = np.maximum.reduceat(numbers_N, np.arange(0, numbers_N.size, _BLOCK))
    return float(np.partition(largest, -count)[-count]) if count <= largest.size else -float("inf")


def _widened(numbers: torch.Tensor) -> Floats:
    """bf16 numbers in fp32, of which they are the upper halves. torch would wake its threads for it."""
    bits = numbers.view(torch.int16).numpy().astype(np.int32)
    return (bits << 16).view(np.float32)
