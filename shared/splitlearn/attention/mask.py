"""Which earlier rows a row may attend to, as a rule and not as a tensor.

Shapes: t rows of one session, N rows that it then holds.
"""

from functools import cached_property

import torch

from splitlearn.hf.masks import MaskFunction, window_of


class AttentionMask:
    """Passed to attention in place of a mask tensor, for masks that are not plain causal ones."""

    def __init__(self, may_see: MaskFunction) -> None:
        self._may_see = may_see
        self._visible: dict[tuple[int, int], torch.Tensor] = {}
        self._first_visible: dict[int, int | None] = {}

    def visible(self, position: int, count: int, device: torch.device) -> torch.Tensor:
        """Booleans [t, N] for `count` rows from `position` on."""
        key = (position, count)
        if key not in self._visible:
            rows_N = torch.arange(position + count, device=device)
            visible = self._may_see(0, 0, rows_N[position:, None], rows_N[None, :])
            self._visible[key] = visible.expand(count, position + count)
        return self._visible[key]

    def first_visible(self, position: int) -> int | None:
        """The first row that the row at `position` sees; None if it does not see all rows from there on."""
        if position not in self._first_visible:
            visible_N = self.visible(position, 1, torch.device("cpu"))[0]
            start = visible_N.shape[0] - int(visible_N.sum())
            self._first_visible[position] = start if bool(visible_N[start:].all()) else None
        return self._first_visible[position]

    def first_visible_rows(self, position: int, count: int) -> torch.Tensor | None:
        """The first row that each of `count` rows from `position` on sees, int64 [t].

        None where a row does not see itself and one contiguous range of rows before it.
        """
        ends_T = torch.arange(position + 1, position + count + 1)
        if self.window is not None:
            return (ends_T - self.window).clamp_(min=0)
        visible_TN = self.visible(position, count, torch.device("cpu"))
        first_T = ends_T - visible_TN.sum(1)
        rows_N = torch.arange(position + count)
        contiguous_TN = (rows_N >= first_T[:, None]) & (rows_N < ends_T[:, None])
        return first_T if bool((first_T < ends_T).all()) and torch.equal(contiguous_TN, visible_TN) else None

    @cached_property
    def window(self) -> int | None:
        """The size of a sliding window, the row itself included; None for any other mask."""
        return window_of(self._may_see)
