"""The distance between the student's hidden states and the teacher's.

Shapes: N rows, D hidden size.
"""

from torch import Tensor, nn
from torch.nn import functional

from cleangpt.distillation.losses.numbers import check_above_zero, check_share
from cleangpt.errors import UnknownLossError

HIDDEN_STATE_LOSSES = ("mse", "cosine", "mix", "kl_div")


class HiddenStateLoss(nn.Module):
    """`mse` is relative: the mean squared error over the mean square of the target, so all-zero output scores 1.

    `cosine` is one minus the cosine of the angle between the rows, regardless of their length. `mix` weighs `cosine`
    with `cosine_share` and `mse` with the rest. `kl_div` takes rows for logits, over the channels, and compares the
    distributions at `temperature`; it is scaled by the square of that.

    Raises:
        UnknownLossError: `kind` is not one of `HIDDEN_STATE_LOSSES`.
        TrainingSettingsError: a number is out of range.
    """

    def __init__(self, kind: str = "mse", cosine_share: float = 0.5, temperature: float = 1.0) -> None:
        super().__init__()
        if kind not in HIDDEN_STATE_LOSSES:
            raise UnknownLossError(
                f"hidden-state loss {kind!r} is unknown; choose one of {', '.join(HIDDEN_STATE_LOSSES)}"
            )
        check_share("cosine_share", cosine_share)
        check_above_zero("temperature", temperature)
        self.kind = kind
        self.cosine_share = {"cosine": 1.0, "mix": cosine_share}.get(kind, 0.0)
        self.temperature = temperature

    @property
    def described(self) -> dict[str, str]:
        """What checkpoints say of it, by name."""
        return {
            "hidden_state_loss_type": self.kind,
            "hidden_state_temperature": str(self.temperature),
            "cosine_share": str(self.cosine_share),
        }

    def forward(self, student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
        """The loss, a float32 scalar; gradients flow only into the student's rows."""
        found_ND, wanted_ND = student_ND.float(), teacher_ND.detach().float()
        if self.kind == "kl_div":
            return self._divergence(found_ND, wanted_ND)
        loss = found_ND.new_zeros(())
        if self.cosine_share < 1.0:
            # a floor, so that the loss is finite if the teacher's rows are all zero
            scale = wanted_ND.square().mean().clamp_min(1e-12)
            loss = loss + (1.0 - self.cosine_share) * functional.mse_loss(found_ND, wanted_ND) / scale
        if self.cosine_share > 0.0:
            cosine_N = functional.cosine_similarity(found_ND, wanted_ND, dim=-1)
            loss = loss + self.cosine_share * (1.0 - cosine_N).mean()
        return loss

    def _divergence(self, found_ND: Tensor, wanted_ND: Tensor) -> Tensor:
        own_ND, others_ND = ((each / self.temperature).log_softmax(-1) for each in (found_ND, wanted_ND))
        divergence = functional.kl_div(own_ND, others_ND, reduction="batchmean", log_target=True)
        return self.temperature**2 * divergence
