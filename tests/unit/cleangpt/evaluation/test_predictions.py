import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from cleangpt.data.batches import Batch
from cleangpt.distillation.blocks import Blocks
from cleangpt.distillation.text import next_ids, predicting
from cleangpt.errors import EmptyDataError, VocabularyMismatchError
from cleangpt.evaluation.predictions import Likelihood, measure_predictions


@dataclass
class Saying:
    """Whatever the text, at every position the same logits."""

    logits_V: Tensor  # noqa: N815 - a shape

    def logits(self, batch: Batch) -> Tensor:
        return self.logits_V.expand(int(predicting(batch).sum()), -1)


TEXT = [Batch(torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0]]))]


def test_the_loss_is_that_of_transformers(teacher: PreTrainedModel) -> None:
    ids_BT = torch.randint(teacher.config.vocab_size, (3, 20), generator=torch.Generator().manual_seed(0))
    found = measure_predictions(Blocks(teacher), None, [Batch(ids_BT[:2]), Batch(ids_BT[2:])])
    with torch.inference_mode():
        expected = float(teacher(ids_BT, labels=ids_BT).loss)
    assert found.student.loss == pytest.approx(expected, rel=1e-5)
    assert found.student.perplexity == pytest.approx(math.exp(expected), rel=1e-5)
    assert (found.student.tokens, len(found.student.counts)) == (57, 19)
    assert found.agreement is None


def test_ids_that_are_not_learned_do_not_count() -> None:
    learned_BT = torch.tensor([[False, False, True, True], [False, True, False, False]])
    batch = Batch(TEXT[0].ids_BT, learned_BT)
    found = measure_predictions(Saying(torch.tensor([9.0, 0.0, 0.0, 0.0])), None, [batch])
    assert found.student.counts == (1, 1, 1)
    assert next_ids(batch).tolist() == [2, 3, 2]


def test_an_even_guess_has_the_vocabulary_as_perplexity_and_its_bits_per_byte() -> None:
    found = measure_predictions(Saying(torch.zeros(4)), None, TEXT).student
    assert found.perplexity == pytest.approx(4)
    # half a token to a byte, two bits to a token
    assert found.bits_per_byte(0.5) == pytest.approx(1.0)


def test_a_loss_beyond_all_numbers_has_an_infinite_perplexity() -> None:
    assert Likelihood((1e4,), (1,)).perplexity == math.inf


def test_a_model_agrees_with_itself(teacher: PreTrainedModel) -> None:
    found = measure_predictions(Blocks(teacher), Blocks(teacher), TEXT).agreement
    assert found is not None
    assert (found.positions, found.top_1, found.top_5) == (6, 1.0, 1.0)
    assert found.divergence == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("place", "top_1", "top_5"), [(0, 1.0, 1.0), (1, 0.0, 1.0), (4, 0.0, 1.0), (5, 0.0, 0.0)])
def test_agreement_is_the_place_that_the_teachers_choice_has(place: int, top_1: float, top_5: float) -> None:
    student = Saying(torch.arange(8, 0, -1).float())
    teacher = Saying(torch.eye(8)[place])
    agreement = measure_predictions(student, teacher, TEXT).agreement
    assert agreement is not None
    assert (agreement.top_1, agreement.top_5) == (top_1, top_5)


def test_the_divergence_is_that_of_the_student_from_the_teacher() -> None:
    student, teacher = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.9, 0.1]).log()
    batch = Batch(torch.tensor([[0, 1, 0]]))
    agreement = measure_predictions(Saying(student), Saying(teacher), [batch]).agreement
    assert agreement is not None
    assert agreement.divergence == pytest.approx(0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5))


def test_unequal_vocabularies_are_refused_with_both_sizes() -> None:
    with pytest.raises(VocabularyMismatchError, match=r"4 entries.*5"):
        measure_predictions(Saying(torch.zeros(4)), Saying(torch.zeros(5)), TEXT)


def test_nothing_to_predict_is_said_so() -> None:
    batch = Batch(TEXT[0].ids_BT, torch.zeros(2, 4, dtype=torch.bool))
    with pytest.raises(EmptyDataError, match="no token to predict"):
        measure_predictions(Saying(torch.zeros(4)), None, [batch])


def test_batches_of_unlike_lengths_add_up_by_position() -> None:
    batches = [*TEXT, Batch(torch.tensor([[0, 1]]))]
    even = Saying(torch.zeros(4))
    found = measure_predictions(even, even, batches)
    assert found.student.counts == (3, 2, 2)
    assert found.student.nats == pytest.approx([n * math.log(4) for n in (3, 2, 2)])
    assert found.agreement is not None
    assert (found.agreement.positions, found.agreement.top_1) == (7, 1.0)
