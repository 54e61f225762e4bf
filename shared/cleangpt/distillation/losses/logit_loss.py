"""The distance between the student's predictions and the teacher's, or the text.

Shapes: N rows, V vocabulary.
"""

from torch import Tensor, nn
from torch.nn import functional

from cleangpt.distillation.losses.numbers import check_above_zero, check_share
from cleangpt.errors import UnknownLossError, VocabularyMismatchError

LOGIT_LOSSES = ("kl_div", "cross_entropy", "mix", "mse", "ce")


class LogitLoss(nn.Module):
    """`kl_div` compares with the teacher's distribution, `cross_entropy` with the text, `mix` with both.

    The divergence is computed at `temperature` and scaled by its square, which preserves the size of the gradients
    ("Distilling the Knowledge in a Neural Network", Hinton et al., 2015). `mix` weighs `cross_entropy` with
    `text_share` and `kl_div` with the rest. `mse` is the mean squared difference of the logits, and `ce` the cross
    entropy with the teacher's most likely ids. All are multiplied by `weight`.

    Raises:
        UnknownLossError: `kind` is not one of `LOGIT_LOSSES`.
        TrainingSettingsError: a number is out of range.
    """

    def __init__(
        self, kind: str = "kl_div", temperature: float = 1.0, text_share: float = 0.5, weight: float = 1.0
    ) -> None:
        super().__init__()
        if kind not in LOGIT_LOSSES:
            raise UnknownLossError(f"logit loss {kind!r} is unknown; choose one of {', '.join(LOGIT_LOSSES)}")
        check_share("text_share", text_share)
        check_above_zero("temperature", temperature)
        check_above_zero("weight", weight)
        self.kind = kind
        self.temperature = temperature
        self.text_share = {"cross_entropy": 1.0, "mix": text_share}.get(kind, 0.0)
        self.weight = weight

    @property
    def described(self) -> dict[str, str]:
        """What checkpoints say of it, by name."""
        return {
            "logit_loss_type": self.kind,
            "temperature": str(self.temperature),
            "text_share": str(self.text_share),
            "logit_loss_weight": str(self.weight),
        }

    def forward(self, student_NV: Tensor, teacher_NV: Tensor, next_ids_N: Tensor) -> Tensor:
        """The loss, a float32 scalar in nats per row; of `mse` in squared logits.

        Raises:
            VocabularyMismatchError: the vocabulary dimensions differ.
        """
        if student_NV.shape[-1] != teacher_NV.shape[-1]:
            raise VocabularyMismatchError(student=student_NV.shape[-1], teacher=teacher_NV.shape[-1])
        found_NV, wanted_NV = student_NV.float(), teacher_NV.detach().float()
        if self.kind == "mse":
            return self.weight * functional.mse_loss(found_NV, wanted_NV)
        if self.kind == "ce":
            return self.weight * functional.cross_entropy(found_NV, wanted_NV.argmax(-1))
        loss = found_NV.new_zeros(())
        if self.text_share < 1.0:
            own_NV, others_NV = ((each / self.temperature).log_softmax(-1) for each in (found_NV, wanted_NV))
            divergence = functional.kl_div(own_NV, others_NV, reduction="batchmean", log_target=True)
            loss = loss + (1.0 - self.text_share) * self.temperature**2 * divergence
        if self.text_share > 0.0:
            loss = loss + self.text_share * functional.cross_entropy(found_NV, next_ids_N)
        return self.weight * loss
