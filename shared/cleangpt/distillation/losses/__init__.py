"""What a student is fitted by: the distance of hidden states, the distance of logits."""

from cleangpt.distillation.losses.hidden_state_loss import HIDDEN_STATE_LOSSES, HiddenStateLoss
from cleangpt.distillation.losses.logit_loss import LOGIT_LOSSES, LogitLoss

__all__ = ["HIDDEN_STATE_LOSSES", "LOGIT_LOSSES", "HiddenStateLoss", "LogitLoss"]
