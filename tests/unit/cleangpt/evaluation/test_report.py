import errno
import json
import os
from pathlib import Path

import pytest

from cleangpt.errors import NotWrittenError
from cleangpt.evaluation.hidden_errors import BlockError
from cleangpt.evaluation.predictions import Agreement, Likelihood
from cleangpt.evaluation.report import Comparison, Figures, Report

STUDENT = Figures("small", Likelihood((4.0, 2.0, 0.0), (2, 2, 0)), 1.25, 1000, 4000, 250.0)
TEACHER = Figures("large", Likelihood((2.0, 1.0, 0.0), (2, 2, 0)), 0.75)
REPORT = Report(
    "a story",
    STUDENT,
    TEACHER,
    Agreement(4, 0.875, 0.95, 0.1234),
    (BlockError(0, 1, 0.25, 0.9, True),),
    (Comparison("Once", "upon a time " * 12, "there was\na cat"),),
)


def test_the_table_has_every_figure_and_a_dash_for_what_is_not_known() -> None:
    lines = REPORT.table().splitlines()
    assert "a story: 4 tokens predicted" in lines
    by_name = {line.split("  ")[0]: line.split()[-2:] for line in lines if "  " in line}
    assert by_name["loss, nats per token"] == ["1.5000", "0.7500"]
    assert by_name["perplexity"] == ["4.48", "2.12"]
    assert by_name["parameters"] == ["1,000", "-"]
    assert by_name["tokens/s, one text"] == ["250.0", "-"]
    assert by_name["top-1 agreement with the teacher"] == ["87.50", "%"]
    assert "0      " in REPORT.table()
    assert "best linear map" in REPORT.table()


def test_comparisons_stand_side_by_side() -> None:
    lines = REPORT.table().splitlines()
    start = lines.index("prompt: Once")
    assert lines[start + 1].split() == ["student", "teacher"]
    assert lines[start + 2].startswith("upon a time")
    assert lines[start + 2].endswith("there was")
    assert lines[start + 3].endswith("a cat")
    assert max(map(len, lines)) <= 120


def test_a_model_alone_has_one_column_and_nothing_about_a_teacher() -> None:
    table = Report("a story", STUDENT, comparisons=(Comparison("Once", "upon"),)).table()
    assert "teacher" not in table
    assert table.endswith("prompt: Once\nupon")


def test_a_model_that_says_nothing_has_an_empty_line_beside_its_teacher() -> None:
    lines = Report("a story", STUDENT, comparisons=(Comparison("Once", " ", "upon\n\na time"),)).table().splitlines()
    start = lines.index("prompt: Once")
    assert [line.split() for line in lines[start + 2 :]] == [["upon"], [], ["a", "time"]]


def test_the_json_file_has_the_same_figures(tmp_path: Path) -> None:
    file = tmp_path / "new" / "report.json"
    REPORT.write_json(file)
    found = json.loads(file.read_text())
    assert found["student"]["loss"] == 1.5
    assert found["student"]["loss_by_position"] == [2.0, 1.0, None]
    assert found["agreement"]["top_1"] == 0.875
    assert found["blocks"][0]["is_mapped"] is True
    assert found["comparisons"][0]["prompt"] == "Once"


def test_a_perplexity_beyond_all_numbers_is_null_in_json(tmp_path: Path) -> None:
    Report("a story", Figures("bad", Likelihood((1e5,), (1,)), 9.0)).write_json(tmp_path / "r.json")
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["student"]["perplexity"] is None
    assert found["student"]["loss"] == pytest.approx(1e5)


def test_a_full_disk_is_named_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    report = Report("a story", Figures("bad", Likelihood((1e5,), (1,)), 9.0))
    report.write_json(tmp_path / "r.json")
    before = (tmp_path / "r.json").read_bytes()
    monkeypatch.setattr(Path, "write_text", no_space)
    with pytest.raises(
        NotWrittenError, match=r"r\.json could not be written \(No space left on device\): what it held"
    ):
        report.write_json(tmp_path / "r.json")
    assert (tmp_path / "r.json").read_bytes() == before
