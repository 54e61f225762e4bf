"""Benchmarks run by hand; that they can still be imported is seen by every test run."""

from importlib import import_module
from pathlib import Path

import pytest

MODULES = sorted(
    path.stem for path in (Path(__file__).parents[2] / "benchmarks").glob("*.py") if path.stem != "__init__"
)


@pytest.mark.parametrize("name", MODULES)
def test_a_benchmark_can_be_imported(name: str) -> None:
    import_module(f"tests.benchmarks.{name}")
