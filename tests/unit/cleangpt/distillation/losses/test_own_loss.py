from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from cleangpt.config import GPTConfig
from cleangpt.data.batches import Batch
from cleangpt.distillation.blocks import Blocks
from cleangpt.distillation.losses import LogitLoss, loss_of_logits
from cleangpt.distillation.stage import StagePlan
from cleangpt.distillation.trainers.head_trainer import HeadTrainer
from cleangpt.errors import LossArgumentsError
from cleangpt.model import get_model
from cleangpt.trainers import TrainingSettings
from cleangpt.trainers.loaders import SameEveryEpoch

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
        (torch.dist, torch.dist(_STUDENT_NV, _TEACHER_NV)),
        (_of_text, _of_text(_STUDENT_NV, _TEACHER_NV, _NEXT_N)),
        (LogitLoss("mix"), LogitLoss("mix")(_STUDENT_NV, _TEACHER_NV, _NEXT_N)),
    ],
    ids=["module of two", "function of torch", "function in C", "function of three", "built in"],
)
def test_a_loss_is_called_with_as_many_arguments_as_it_takes(loss: Callable[..., Tensor], expected: Tensor) -> None:
    assert torch.equal(loss_of_logits(loss)(_STUDENT_NV, _TEACHER_NV, _NEXT_N), expected)


@pytest.mark.parametrize("loss", [lambda one: one, lambda a, b, c, d: a])
def test_a_loss_with_fewer_or_more_arguments_is_refused_with_what_it_takes(loss: Callable[..., Tensor]) -> None:
    with pytest.raises(LossArgumentsError, match=r"the loss <lambda> takes \(.*student's logits, the teacher's"):
        loss_of_logits(loss)


def test_what_cannot_be_called_is_no_loss() -> None:
    with pytest.raises(LossArgumentsError, match="the loss is 'mse'; give a module or a function"):
        loss_of_logits("mse")  # type: ignore[arg-type]


def test_the_documented_loss_of_two_arguments_fits_a_head() -> None:
    config = GPTConfig(n_layer=1, n_head=1, n_embd=8, vocab_size=20, block_size=8)
    teacher, student = (Blocks(get_model("Vanilla", config=config)) for _ in range(2))
    plan = StagePlan(SameEveryEpoch([Batch(torch.arange(16).view(2, 8))]), TrainingSettings(epochs=1), {})
    history = HeadTrainer(teacher, student, _Distance()).train(plan, epochs=20, lr=1e-2)
    assert history.losses[-1] < history.losses[0] / 2
