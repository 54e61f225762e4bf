"""The command in this process, with what it printed."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from cleangpt.cli.__main__ import main


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


@pytest.fixture
def cleangpt(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    def call(*words: object) -> Ran:
        capsys.readouterr()
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return call


@pytest.fixture
def story(tmp_path: Path) -> Path:
    """A text file of 2700 characters."""
    file = tmp_path / "story.txt"
    file.write_text("A cat sat on a mat. " * 90 + "The dog saw it. " * 56, encoding="utf-8")
    return file
