import pytest

from cleangpt.trainers.plots import smoothed


def test_a_smoothed_curve_is_level_where_the_values_are_also_at_its_start() -> None:
    assert smoothed([2.0] * 300) == pytest.approx([2.0] * 300)


def test_a_jump_is_followed_slowly_and_few_values_are_left_as_they_are() -> None:
    found = smoothed([0.0] * 200 + [1.0] * 200)
    # a mean over about eight steps
    assert found[200] == pytest.approx(1 / 8, rel=1e-3)
    assert found[399] == pytest.approx(1.0)
    assert smoothed([3.0, 1.0]) == [3.0, 1.0]
