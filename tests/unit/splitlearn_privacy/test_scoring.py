import numpy as np
import pytest

from splitlearn_privacy.scoring import Score, Share, token_f1


def test_a_score_counts_first_guesses_and_those_among_five() -> None:
    ids_NT = np.array([[1, 2], [3, 4]])
    guesses_NTK = np.array([[[1, 0, 0, 0, 0], [9, 2, 0, 0, 0]], [[9, 0, 0, 0, 3], [9, 8, 7, 6, 5]]])

    score = Score.of(ids_NT, guesses_NTK)

    assert score.top_1.value == 0.25
    assert score.top_5.value == 0.75
    assert score.f1.value == 0.25


def test_f1_does_not_ask_where_a_token_stands() -> None:
    assert token_f1([1, 2, 3, 3], [3, 1, 9, 9]) == 0.5
    assert token_f1([1, 2], [2, 1]) == 1.0
    assert token_f1([1], [2]) == 0.0


def test_an_interval_holds_the_share_and_narrows_with_more_texts() -> None:
    values = np.random.default_rng(1).uniform(size=400)
    few, many = Share.over_texts(values[:20]), Share.over_texts(values)

    assert few.low < few.value < few.high
    assert many.high - many.low < few.high - few.low
    # the interval of a mean: 1.96 standard errors to either side
    assert many.high - many.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.15)


@pytest.mark.parametrize(("value", "low", "high"), [(1.0, 0.7, 1.0), (0.0, 0.0, 0.3)])
def test_texts_that_all_agree_do_not_prove_certainty(value: float, low: float, high: float) -> None:
    share = Share.over_texts(np.full(10, value))

    assert (share.value, share.low, share.high) == (value, pytest.approx(low), pytest.approx(high))
