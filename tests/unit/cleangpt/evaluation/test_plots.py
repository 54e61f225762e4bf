from pathlib import Path

import pytest

from cleangpt.evaluation.hidden_errors import BlockError
from cleangpt.evaluation.plots import loss_points, plot_report
from cleangpt.evaluation.predictions import Agreement, Likelihood
from cleangpt.evaluation.report import Figures, Report


def test_neighbouring_positions_are_one_point_weighed_by_their_counts() -> None:
    points = loss_points(Likelihood((30.0, 10.0) * 32, (30, 10) * 32))
    assert len(points) == 32
    assert points[0] == (1.5, pytest.approx(1.0))


def test_positions_that_few_rows_reach_are_left_out() -> None:
    assert loss_points(Likelihood((40.0, 3.0), (20, 1))) == [(1.0, 2.0)]
    assert loss_points(Likelihood((6.0,), (3,))) == [(1.0, 2.0)]


def test_a_model_alone_and_one_beside_its_teacher_are_drawn(tmp_path: Path) -> None:
    figures = Figures("small", Likelihood((40.0,), (20,)), 1.0, 10, 40, 5.0)
    teacher = Figures("large", Likelihood((20.0,), (20,)), 1.0, 30, 120, 4.0)
    plot_report(Report("text", figures), tmp_path / "new" / "alone.png")
    beside = Report("text", figures, teacher, Agreement(4, 0.5, 0.75, 0.1), (BlockError(0, 0, 0.1, 0.9, False),))
    plot_report(beside, tmp_path / "both.svg")
    assert (tmp_path / "new" / "alone.png").read_bytes().startswith(b"\x89PNG")
    drawn = (tmp_path / "both.svg").read_text()
    assert "<svg" in drawn
    # a third of the parameters, and more tokens in a second; what is written stands beside its outline
    assert drawn.count("<!-- 0.33 -->") == 2
    assert "<!-- 1.25 -->" in drawn
