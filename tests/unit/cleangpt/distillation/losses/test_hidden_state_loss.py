import pytest
import torch

from cleangpt.distillation.losses import HIDDEN_STATE_LOSSES, HiddenStateLoss
from cleangpt.errors import UnknownLossError

ROWS_ND = torch.tensor([[3.0, 4.0], [0.0, 2.0]])


@pytest.mark.parametrize("kind", HIDDEN_STATE_LOSSES)
def test_equal_rows_cost_nothing(kind: str) -> None:
    assert HiddenStateLoss(kind)(ROWS_ND, ROWS_ND) == pytest.approx(0.0, abs=1e-6)


def test_the_squared_error_is_relative_to_the_target() -> None:
    assert HiddenStateLoss("mse")(torch.zeros(2, 2), ROWS_ND) == pytest.approx(1.0)
    assert HiddenStateLoss("mse")(torch.zeros(2, 2), 100 * ROWS_ND) == pytest.approx(1.0)


def test_the_cosine_is_blind_to_length_and_sees_direction() -> None:
    assert HiddenStateLoss("cosine")(7 * ROWS_ND, ROWS_ND) == pytest.approx(0.0, abs=1e-6)
    assert HiddenStateLoss("cosine")(-ROWS_ND, ROWS_ND) == pytest.approx(2.0)


def test_a_mix_takes_its_share_of_each() -> None:
    found = HiddenStateLoss("mix", cosine_share=0.25)(-ROWS_ND, ROWS_ND)
    assert found == pytest.approx(0.25 * 2.0 + 0.75 * 4.0)


def test_rows_may_be_compared_as_distributions_over_channels_at_a_temperature() -> None:
    found_ND, wanted_ND = (each_ND.softmax(-1) for each_ND in (torch.zeros(2, 2), ROWS_ND / 2))
    expected = 4 * (wanted_ND * (wanted_ND / found_ND).log()).sum(-1).mean()
    assert HiddenStateLoss("kl_div", temperature=2.0)(torch.zeros(2, 2), ROWS_ND) == pytest.approx(float(expected))


@pytest.mark.parametrize("kind", ["mix", "kl_div"])
def test_the_teacher_gets_no_gradient(kind: str) -> None:
    student_ND, teacher_ND = (torch.randn(2, 3, requires_grad=True) for _ in range(2))
    HiddenStateLoss(kind)(student_ND, teacher_ND).backward()
    assert student_ND.grad is not None
    assert teacher_ND.grad is None


def test_a_teacher_of_zeros_gives_a_number() -> None:
    assert torch.isfinite(HiddenStateLoss("mix")(ROWS_ND, torch.zeros(2, 2)))


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownLossError, match=r"'l1'.*mse, cosine, mix"):
        HiddenStateLoss("l1")


def test_rows_of_few_bits_are_compared_with_many() -> None:
    rows_ND = torch.tensor([[1.0, 1.0078125]], dtype=torch.bfloat16)
    found = HiddenStateLoss("mix")(rows_ND, torch.ones(1, 2))
    assert found.dtype == torch.float32
    assert found == pytest.approx(float(HiddenStateLoss("mix")(rows_ND.float(), torch.ones(1, 2))), abs=1e-9)
