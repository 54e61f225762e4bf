"""What a table of an old and a new tree says, from plain numbers."""

import pytest

from tests.benchmarks.figures import Figure
from tests.benchmarks.old_and_new import OldAndNew, pair_up


def figure(name: str, *found: float, more_is_better: bool = False) -> Figure:
    return Figure(name, "ms", found, more_is_better)


def test_less_time_and_more_tokens_are_both_gains() -> None:
    time = OldAndNew([figure("t", 10, 12, 11)], [figure("t", 22)])
    rate = OldAndNew([figure("r", 10, more_is_better=True)], [figure("r", 20, more_is_better=True)])
    assert time.gains == [0.5]
    assert rate.gains == [2.0]


def test_rounds_are_compared_one_by_one_and_the_bests_over_all() -> None:
    row = OldAndNew([figure("t", 10, 11, 12), figure("t", 30, 40, 50)], [figure("t", 11, 9), figure("t", 20)])
    assert row.gains == [1.1, 2.0]
    assert row.gain_of_bests == pytest.approx(10 / 9)


def test_a_figure_is_worse_only_where_rounds_and_bests_agree() -> None:
    disturbed = OldAndNew([figure("t", 10), figure("t", 10)], [figure("t", 10), figure("t", 90)])
    slower = OldAndNew([figure("t", 10), figure("t", 11)], [figure("t", 12), figure("t", 13)])
    assert disturbed.gives(0.97)
    assert not slower.gives(0.97)


def test_what_may_be_zero_has_no_ratio() -> None:
    row = OldAndNew([figure("growth", 0.0)], [figure("growth", 0.1)])
    assert row.gives(0.97)
    assert "| - |" in row.line


def test_figures_are_told_apart_by_name_and_those_without_another_are_listed() -> None:
    old, new = [[figure("a", 1), figure("b", 1)]] * 2, [[figure("c", 1), figure("a", 2)]] * 2
    rows, only_old, only_new = pair_up(old, new)
    assert [(row.name, row.gains) for row in rows] == [("a", [0.5, 0.5])]
    assert (only_old, only_new) == (["b"], ["c"])
