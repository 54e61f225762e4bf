import math

import pytest

from cleangpt.distillation.losses import HiddenStateLoss, LogitLoss
from cleangpt.errors import TrainingSettingsError


@pytest.mark.parametrize("loss", [HiddenStateLoss, LogitLoss])
@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_a_temperature_that_gives_no_number_is_refused(
    loss: type[HiddenStateLoss | LogitLoss], temperature: float
) -> None:
    with pytest.raises(
        TrainingSettingsError, match=f"temperature has to be a finite number above 0, found {temperature}"
    ):
        loss("kl_div", temperature=temperature)


@pytest.mark.parametrize("weight", [0.0, math.inf, math.nan])
def test_a_weight_that_learns_nothing_or_no_number_is_refused(weight: float) -> None:
    with pytest.raises(TrainingSettingsError, match=f"weight has to be a finite number above 0, found {weight}"):
        LogitLoss(weight=weight)


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_a_share_lies_between_0_and_1(share: float) -> None:
    with pytest.raises(TrainingSettingsError, match=f"text_share is a share between 0 and 1, found {share}"):
        LogitLoss("mix", text_share=share)
    with pytest.raises(TrainingSettingsError, match=f"cosine_share is a share between 0 and 1, found {share}"):
        HiddenStateLoss("mix", cosine_share=share)
