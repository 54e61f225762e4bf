"""How far the student's hidden states are from the teacher's.

Shapes: N rows that count, D hidden size.
"""

from torch import Tensor, nn
from torch.nn import functional

from cleangpt.errors import UnknownLossError

HIDDEN_STATE_LOSSES = ("mse", "cosine", "mix")


class HiddenStateLoss(nn.Module):
    """`mse` is relative: the squared error over the mean square of the target, so that 1 is as good as zeros.

    `cosine` is one minus the cosine of the angle between the rows, blind to their length. `mix` takes `cosine_share`
    of the second and the rest of the first.

    Raises:
        UnknownLossError: `kind` is none of `HIDDEN_STATE_LOSSES`.
    """

    def __init__(self, kind: str = "mse", cosine_share: float = 0.5) -> None:
        super().__init__()
        if kind not in HIDDEN_STATE_LOSSES:
            raise UnknownLossError(
                f"hidden-state loss {kind!r} is unknown; choose one of {', '.join(HIDDEN_STATE_LOSSES)}"
            )
        self.kind = kind
        self.cosine_share = {"mse": 0.0, "cosine": 1.0, "mix": cosine_share}[kind]

    def forward(self, student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
        """A float32 scalar; gradients flow into the student's rows alone."""
        found_ND, wanted_ND = student_ND.float(), teacher_ND.detach().float()
        loss = found_ND.new_zeros(())
        if self.cosine_share < 1.0:
            # a floor, so that a teacher that answers zeros gives a number
            scale = wanted_ND.square().mean().clamp_min(1e-12)
            loss = loss + (1.0 - self.cosine_share) * functional.mse_loss(found_ND, wanted_ND) / scale
        if self.cosine_share > 0.0:
            cosine_N = functional.cosine_similarity(found_ND, wanted_ND, dim=-1)
            loss = loss + self.cosine_share * (1.0 - cosine_N).mean()
        return loss
