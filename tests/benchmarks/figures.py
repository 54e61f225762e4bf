"""What a benchmark found, for programs: one line of JSON, which `compare_trees` reads. Plain numbers.

A figure's name is its key: it stays as it is while code is renamed, and holds nothing that was measured.
"""

import argparse
import json
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FORMAT = 1


@dataclass(frozen=True)
class Figure:
    """One number, measured several times.

    Attributes:
        against: what the other side gave in the same rounds, where there is one.
    """

    name: str
    unit: str
    found: Sequence[float]
    more_is_better: bool
    against: Sequence[float] = ()


@dataclass(frozen=True)
class Report:
    """What one run of a benchmark wrote.

    Attributes:
        files: the modules that it had loaded, other than those of Python and of site-packages.
    """

    figures: Sequence[Figure]
    files: Sequence[Path]


def add_json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, and no page of results")


def write_report(file: Path | None, figures: Iterable[Figure]) -> None:
    """Does nothing without a file."""
    if file is not None:
        found = {"format": FORMAT, "figures": [asdict(figure) for figure in figures], "files": _own_files()}
        file.write_text(json.dumps(found) + "\n")


def read_report(file: Path) -> Report:
    """Raises ValueError if it was written in another way."""
    found: dict[str, Any] = json.loads(file.read_text())
    if found["format"] != FORMAT:
        raise ValueError(f"{file} has the format {found['format']}, this reads {FORMAT}")
    return Report([Figure(**figure) for figure in found["figures"]], [Path(each) for each in found["files"]])


def _own_files() -> list[str]:
    installed = [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")]
    # torch has modules with names of files that are none
    files = {Path(name) for module in list(sys.modules.values()) if (name := _file_of(module)) and Path(name).is_file()}
    return sorted(
        str(file.absolute())
        for file in files
        if "site-packages" not in file.parts and not any(file.is_relative_to(folder) for folder in installed)
    )


def _file_of(module: object) -> str | None:
    # what stands in for modules may answer anything
    name = getattr(module, "__file__", None)
    return name if isinstance(name, str) else None
