"""The benchmark on a CUDA device: what it found before it was ended is in its file."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.benchmarks.comparison import Comparison
from tests.benchmarks.cuda import GOAL, Sizes, write_as_they_come


def test_rows_are_in_the_file_before_the_next_is_measured(tmp_path: Path) -> None:
    file = tmp_path / "found.md"

    def rows() -> Iterator[Comparison]:
        yield Comparison("16 sessions", "ms", [2.0], [1.0], GOAL)
        assert "| 16 sessions | 2.00 | 1.00 ms | **0.50** |" in file.read_text()
        yield Comparison("1 session", "ms", [1.0], [1.0], GOAL)
        raise TimeoutError

    with pytest.raises(TimeoutError):
        write_as_they_come(file, "a device", Sizes(1, 1, torch.device("cpu")), rows())
    lines = file.read_text().splitlines()
    assert [line.split(" |")[0] for line in lines[-2:]] == ["| 16 sessions", "| 1 session"]
