"""The programs of deploy/, which are in no package."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Final

DEPLOY: Final = Path(__file__).parents[2] / "deploy"


def main_of(name: str) -> Callable[[], int]:
    """`main` of a program, without its ending."""
    spec = importlib.util.spec_from_file_location(name, DEPLOY / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    main: Callable[[], int] = module.main
    return main
