"""The benchmark on a CUDA device: what it found before it was ended is in its file."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.benchmarks import contenders, cuda
from tests.benchmarks.comparison import Comparison, Measure
from tests.benchmarks.cuda import GOAL, Roof, Sizes, write_as_they_come


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


def test_every_row_can_be_measured_where_there_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CHECKPOINTS", "WORK"):
        monkeypatch.setattr(contenders, name, tmp_path)
    small = {"vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3}
    small |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024}
    for name in ("QWEN", "LLAMA", "EIGHT_B"):
        shape = getattr(cuda, name)
        monkeypatch.setattr(cuda, name, replace(shape, layers="1-2", config={**shape.config, **small}))
    for name, value in {"COPIED_BYTES": 2**12, "SIDE": 16, "PROMPTS": (40,), "STEP_ROWS": 16}.items():
        monkeypatch.setattr(cuda, name, value)
    sizes = Sizes(1, 2, torch.device("cpu"))
    rows = list(cuda._rows(sizes))
    assert [type(row) for row in rows] == [*[Comparison] * 3, *[Measure] * 4, *[Comparison] * 3, *[Measure] * 2]
    assert all(each > 0 for row in rows for each in (row.ours if isinstance(row, Comparison) else row.found))
    file = tmp_path / "found.md"
    write_as_they_come(file, "no device", sizes, rows)
    assert file.read_text().count("share of the roof") == 6


def test_a_step_takes_as_long_as_its_weights_are_read_or_multiplied() -> None:
    roof = Roof(n_bytes=2e12, operations=1e15)
    assert roof.milliseconds(10**9, 1) == pytest.approx(1.0)
    assert roof.milliseconds(10**9, 1000) == pytest.approx(2.0)
