"""Losses of one's own in the place of LogitLoss.

Shapes: N rows, V vocabulary.
"""

import inspect
from collections.abc import Callable

from torch import Tensor, nn

from cleangpt.errors import LossArgumentsError

LossOfLogits = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(the student's logits [N, V], the teacher's [N, V], the ids [N] that follow) -> a scalar."""


def loss_of_logits(loss: Callable[..., Tensor]) -> LossOfLogits:
    """The loss with three arguments; one that can do with two gets the logits of student and teacher alone.

    Raises:
        LossArgumentsError: it takes neither two arguments nor three, or cannot be called.
    """
    if not callable(loss):
        raise LossArgumentsError(
            f"the loss is {loss!r}; give a module or a function of the student's logits and the teacher's"
        )
    try:
        signature = inspect.signature(loss.forward if isinstance(loss, nn.Module) else loss)
    except ValueError:
        # of a function in C nothing tells; the documented form has two
        return lambda student_NV, teacher_NV, _: loss(student_NV, teacher_NV)
    # the documented two first: the third that losses of torch may have is another
    if _takes(signature, 2):
        return lambda student_NV, teacher_NV, _: loss(student_NV, teacher_NV)
    if _takes(signature, 3):
        return loss
    raise LossArgumentsError(
        f"the loss {getattr(loss, '__name__', type(loss).__name__)} takes {signature}; it is called with the student's "
        "logits, the teacher's, and the ids that follow if it needs a third argument"
    )


def _takes(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True
