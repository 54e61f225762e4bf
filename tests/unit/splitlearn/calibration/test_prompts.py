import pytest

from splitlearn.calibration.prompts import cut_prompts
from splitlearn.errors import BadRows


def test_prompts_have_one_length_and_lie_evenly_over_all_texts() -> None:
    found = cut_prompts([range(0, 30), range(30, 95)], 3, 10)
    assert found == [list(range(0, 10)), list(range(30, 40)), list(range(60, 70))]


def test_a_text_that_is_too_short_for_so_many_gives_fewer() -> None:
    assert cut_prompts([range(25)], 16, 10) == [list(range(0, 10)), list(range(10, 20))]


def test_a_text_that_is_shorter_than_a_prompt_is_one() -> None:
    assert cut_prompts([[5, 6], [7]], 16, 10) == [[5, 6, 7]]


@pytest.mark.parametrize("texts", [[], [[], []]])
def test_a_text_without_tokens_is_refused(texts: list[list[int]]) -> None:
    with pytest.raises(BadRows, match="no tokens"):
        cut_prompts(texts, 16, 10)
