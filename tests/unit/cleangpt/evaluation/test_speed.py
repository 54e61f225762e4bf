import math

from torch import nn
from transformers import PreTrainedModel

from cleangpt.evaluation.speed import pace, size_of, tokens_per_second


def test_what_is_shared_is_counted_once(teacher: PreTrainedModel) -> None:
    found = size_of(teacher, teacher.get_output_embeddings())
    assert found.parameters == teacher.num_parameters()
    assert found.bytes == 4 * found.parameters
    assert size_of(nn.Linear(2, 3), nn.Linear(3, 1)).parameters == 6 + 3 + 3 + 1


def test_a_model_goes_on_at_some_pace_also_beyond_its_end_token(teacher: PreTrainedModel) -> None:
    teacher.generation_config.eos_token_id = list(range(teacher.config.vocab_size - 1))
    found = tokens_per_second(teacher)
    assert math.isfinite(found)
    assert found > 0


def test_the_pace_is_that_of_the_median_round() -> None:
    times = iter([0.0, 1.0, 10.0, 14.0, 20.0, 22.0])
    calls: list[int] = []
    assert pace(lambda: calls.append(1), 8, lambda: next(times)) == 4.0
    assert len(calls) == 4
