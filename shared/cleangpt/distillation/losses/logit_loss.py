"""The distance between the student's predictions and the teacher's, or the text.

Shapes: N rows, V vocabulary.
"""

from torch import Tensor, nn
from torch.nn import functional

from cleangpt.errors import UnknownLossError, VocabularyMismatchError

LOGIT_LOSSES = ("kl_div", "cross_entropy", "mix")


class LogitLoss(nn.Module):
    """`kl_div` compares with the teacher's distribution, `cross_entropy` with the text, `mix` with both.

    The divergence is computed at `temperature` and scaled by its square, which preserves the size of the gradients
    ("Distilling the Knowledge in a Neural Network", Hinton et al., 2015). `mix` weighs `cross_entropy` with
    `text_share` and `kl_div` with the rest.

    Raises:
        UnknownLossError: `kind` is not one of `LOGIT_LOSSES`.
    """

    def __init__(self, kind: str = "kl_div", temperature: float = 1.0, text_share: float = 0.5) -> None:
        super().__init__()
        if kind not in LOGIT_LOSSES:
            raise UnknownLossError(f"logit loss {kind!r} is unknown; choose one of {', '.join(LOGIT_LOSSES)}")
        self.kind = kind
        self.temperature = temperature
        self.text_share = {"kl_div": 0.0, "cross_entropy": 1.0, "mix": text_share}[kind]

    def forward(self, student_NV: Tensor, teacher_NV: Tensor, next_ids_N: Tensor) -> Tensor:
        """The loss, a float32 scalar in nats per row.

        Raises:
            VocabularyMismatchError: the vocabulary dimensions differ.
        """
        if student_NV.shape[-1] != teacher_NV.shape[-1]:
            raise VocabularyMismatchError(student=student_NV.shape[-1], teacher=teacher_NV.shape[-1])
        loss = student_NV.new_zeros((), dtype=student_NV.float().dtype)
        if self.text_share < 1.0:
            found_NV = functional.log_softmax(student_NV.float() / self.temperature, dim=-1)
            wanted_NV = functional.log_softmax(teacher_NV.detach().float() / self.temperature, dim=-1)
            divergence = functional.kl_div(found_NV, wanted_NV, reduction="batchmean", log_target=True)
            loss = loss + (1.0 - self.text_share) * self.temperature**2 * divergence
        if self.text_share > 0.0:
            loss = loss + self.text_share * functional.cross_entropy(student_NV.float(), next_ids_N)
        return loss
