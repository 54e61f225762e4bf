"""What the functions say that transformers makes masks of: mask(batch, head, row, other row) is whether it is seen."""

from collections.abc import Callable
from typing import Any

from transformers.masking_utils import causal_mask_function, sliding_window_causal_mask_function

MaskFunction = Callable[..., Any]

_WINDOW = sliding_window_causal_mask_function(1)


def is_causal(mask_function: MaskFunction) -> bool:
    """Whether a row sees itself and all rows before it, and no others."""
    return mask_function is causal_mask_function


def window_of(mask_function: MaskFunction) -> int | None:
    """How many rows a row sees, with itself, where that is all that the function says; None for any other.

    transformers makes each such function anew, of the same code and with its numbers in the closure, and says nowhere
    else what it stands for: its name is that of any conjunction, and asking it cannot tell what it says further on.
    Where transformers composes them otherwise, this is None, and rows are seen by asking, which is right but slower.
    """
    if not _same_code(mask_function, _WINDOW):
        return None
    overlay, causal = _closure(mask_function)[0]
    if not is_causal(causal) or not _same_code(overlay, _closure(_WINDOW)[0][0]):
        return None
    return int(_closure(overlay)[0])


def _same_code(one: Any, other: Any) -> bool:
    return getattr(one, "__code__", None) is other.__code__


def _closure(function: Any) -> list[Any]:
    return [cell.cell_contents for cell in function.__closure__]
