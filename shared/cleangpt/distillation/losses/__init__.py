"""The losses of distillation: the distance between hidden states and the distance between logits."""

from cleangpt.distillation.losses.hidden_state_loss import HIDDEN_STATE_LOSSES, HiddenStateLoss
from cleangpt.distillation.losses.logit_loss import LOGIT_LOSSES, LogitLoss
from cleangpt.distillation.losses.own_loss import LossOfLogits, loss_of_logits

__all__ = [
    "HIDDEN_STATE_LOSSES",
    "LOGIT_LOSSES",
    "HiddenStateLoss",
    "LogitLoss",
    "LossOfLogits",
    "loss_of_logits",
]
