from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from cleangpt.distillation.losses import LogitLoss, loss_of_logits
from cleangpt.errors import LossArgumentsError

_STUDENT_NV, _TEACHER_NV, _NEXT_N = torch.eye(3), torch.ones(3, 3), torch.tensor([2, 1, 0])


class _Distance(nn.Module):
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return (student - teacher).square().mean()


def _of_text(student: Tensor, teacher: Tensor, next_ids: Tensor) -> Tensor:
    return functional.cross_entropy(student, next_ids) + 0 * teacher.sum()


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (_Distance(), _Distance()(_STUDENT_NV, _TEACHER_NV)),
        (functional.mse_loss, functional.mse_loss(_STUDENT_NV, _TEACHER_NV)),
        (_of_text, _of_text(_STUDENT_NV, _TEACHER_NV, _NEXT_N)),
        (LogitLoss("mix"), LogitLoss("mix")(_STUDENT_NV, _TEACHER_NV, _NEXT_N)),
    ],
    ids=["module of two", "function of torch", "function of three", "built in"],
)
def test_a_loss_is_called_with_as_many_arguments_as_it_takes(loss: Callable[..., Tensor], expected: Tensor) -> None:
    assert torch.equal(loss_of_logits(loss)(_STUDENT_NV, _TEACHER_NV, _NEXT_N), expected)


@pytest.mark.parametrize("loss", [lambda one: one, lambda a, b, c, d: a])
def test_a_loss_with_fewer_or_more_arguments_is_refused_with_what_it_takes(loss: Callable[..., Tensor]) -> None:
    with pytest.raises(LossArgumentsError, match=r"the loss <lambda> takes \(.*student's logits, the teacher's"):
        loss_of_logits(loss)
