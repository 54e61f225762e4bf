"""How far the student's predictions are from the teacher's, or from the text.

Shapes: N rows that count, V vocabulary.
"""

from torch import Tensor, nn
from torch.nn import functional

from cleangpt.errors import UnknownLossError, VocabularyMismatchError

LOGIT_LOSSES = ("kl_div", "cross_entropy", "mix")


class LogitLoss(nn.Module):
    """`kl_div` compares with the teacher's distribution, `cross_entropy` with the text, `mix` with both.

    The divergence is taken at `temperature` and scaled by its square, which keeps the gradients' size ("Distilling
    the Knowledge in a Neural Network", Hinton et al., 2015). `mix` takes `text_share` of the cross entropy.

    Raises:
        UnknownLossError: `kind` is none of `LOGIT_LOSSES`.
    """

    def __init__(self, kind: str = "kl_div", temperature: float = 1.0, text_share: float = 0.5) -> None:
        super().__init__()
        if kind not in LOGIT_LOSSES:
            raise UnknownLossError(f"logit loss {kind!r} is unknown; choose one of {', '.join(LOGIT_LOSSES)}")
        self.kind = kind
        self.temperature = temperature
        self.text_share = {"kl_div": 0.0, "cross_entropy": 1.0, "mix": text_share}[kind]

    def forward(self, student_NV: Tensor, teacher_NV: Tensor, next_ids_N: Tensor) -> Tensor:
        """A float32 scalar, nats per row.

        Raises:
            VocabularyMismatchError: the last dimensions differ.
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
