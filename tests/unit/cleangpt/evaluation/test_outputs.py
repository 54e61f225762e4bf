import json
from pathlib import Path

import pytest

from cleangpt.evaluation.outputs import write_report
from cleangpt.evaluation.predictions import Likelihood
from cleangpt.evaluation.report import Figures, Report


@pytest.fixture
def report() -> Report:
    return Report("a story", Figures("model", Likelihood((2.0, 1.0), (1, 1)), 1.5))


def test_a_folder_gets_the_numbers_and_the_plot_beside_the_files_named(report: Report, tmp_path: Path) -> None:
    numbers, folder = tmp_path / "n.json", tmp_path / "results"
    lines = write_report(report, numbers, None, folder)
    assert lines == [
        f"numbers: {numbers}",
        f"numbers: {folder / 'report.json'}",
        f"plot: {folder / 'report.png'}",
    ]
    assert json.loads(numbers.read_text()) == json.loads((folder / "report.json").read_text()) == report.to_dict()
    assert (folder / "report.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_is_written_where_nothing_is_named(report: Report) -> None:
    assert write_report(report) == []
