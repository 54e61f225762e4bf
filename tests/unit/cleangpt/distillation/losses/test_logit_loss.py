import math

import pytest
import torch
from torch.nn import functional

from cleangpt.distillation.losses import LOGIT_LOSSES, LogitLoss
from cleangpt.errors import UnknownLossError, VocabularyMismatchError

NEXT_N = torch.tensor([0, 1])
EVEN_NV = torch.zeros(2, 4)
SURE_NV = torch.tensor([[9.0, 0.0, 0.0, 0.0], [0.0, 9.0, 0.0, 0.0]])


def test_equal_predictions_have_no_divergence() -> None:
    assert LogitLoss("kl_div")(SURE_NV + 5, SURE_NV, NEXT_N) == pytest.approx(0.0, abs=1e-5)


def test_the_divergence_runs_from_the_teacher_to_the_student() -> None:
    wanted_NV = SURE_NV.softmax(-1)
    expected = (wanted_NV * (wanted_NV.log() - math.log(1 / 4))).sum(-1).mean()
    assert LogitLoss("kl_div")(EVEN_NV, SURE_NV, NEXT_N) == pytest.approx(float(expected), rel=1e-5)


def test_a_temperature_softens_both_and_scales_by_its_square() -> None:
    softened = LogitLoss("kl_div")(EVEN_NV / 3, SURE_NV / 3, NEXT_N)
    assert LogitLoss("kl_div", temperature=3.0)(EVEN_NV, SURE_NV, NEXT_N) == pytest.approx(9 * float(softened))


def test_cross_entropy_looks_at_the_text_and_not_at_the_teacher() -> None:
    found = LogitLoss("cross_entropy")(SURE_NV, EVEN_NV, NEXT_N)
    assert found == pytest.approx(float(functional.cross_entropy(SURE_NV, NEXT_N)))


def test_a_mix_takes_its_share_of_each() -> None:
    parts = [float(LogitLoss(kind)(EVEN_NV, SURE_NV, NEXT_N)) for kind in ("kl_div", "cross_entropy")]
    found = LogitLoss("mix", text_share=0.25)(EVEN_NV, SURE_NV, NEXT_N)
    assert found == pytest.approx(0.75 * parts[0] + 0.25 * parts[1])


def test_a_squared_difference_is_of_the_logits_themselves() -> None:
    assert LogitLoss("mse")(EVEN_NV, SURE_NV, NEXT_N) == pytest.approx(81 / 4)


def test_the_teachers_first_choices_may_be_the_text() -> None:
    found = LogitLoss("ce")(EVEN_NV + SURE_NV, SURE_NV.flip(0), NEXT_N)
    assert found == pytest.approx(float(functional.cross_entropy(SURE_NV, NEXT_N.flip(0))))


@pytest.mark.parametrize("kind", LOGIT_LOSSES)
def test_a_weight_multiplies_every_kind(kind: str) -> None:
    plain, weighted = (LogitLoss(kind, 2.0, weight=each)(EVEN_NV, SURE_NV, NEXT_N) for each in (1.0, 0.25))
    assert weighted == pytest.approx(0.25 * float(plain))
    assert plain > 0.1


def test_unequal_vocabularies_are_refused_with_both_sizes() -> None:
    with pytest.raises(VocabularyMismatchError, match=r"4 entries.*5"):
        LogitLoss()(EVEN_NV, torch.zeros(2, 5), NEXT_N)


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownLossError, match=r"'l2'.*kl_div, cross_entropy, mix"):
        LogitLoss("l2")


def test_the_teacher_gets_no_gradient_and_few_bits_are_summed_in_many() -> None:
    student_NV, teacher_NV = (torch.randn(2, 4, requires_grad=True) for _ in range(2))
    LogitLoss("mix")(student_NV, teacher_NV, NEXT_N).backward()
    assert student_NV.grad is not None
    assert teacher_NV.grad is None
    coarse_NV = torch.tensor([[1.1, 0.3, 0.2, 0.1], [0.7, 0.2, 0.9, 0.4]], dtype=torch.bfloat16)
    found = LogitLoss("cross_entropy")(coarse_NV, EVEN_NV, NEXT_N)
    assert float(found) == pytest.approx(float(functional.cross_entropy(coarse_NV.float(), NEXT_N)), abs=1e-7)
