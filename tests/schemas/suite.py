"""The JSON Schema test suite's draft 2020-12, which the sdist of `jsonschema` holds."""

import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).with_name("results.jsonl")
_REQUIREMENT = "jsonschema==4.26.0 --hash=sha256:0c26707e2efad8aa1bfc5b7ce170f3fccc2e4918ff85989ba9ffa9facb2be326"
_FOLDER = ROOT / "build" / "json-schema-suite"
_TESTS = "json/tests/draft2020-12"


@dataclass(frozen=True)
class Case:
    """A schema of the suite, with values and whether they follow it."""

    file: str
    description: str
    schema: Any
    tests: list[dict[str, Any]]

    @property
    def is_required(self) -> bool:
        """Whether the specification asks for it of everyone."""
        return not self.file.startswith("optional/")


def downloaded() -> Path:
    """The folder of the suite, downloaded once, by its hash."""
    archive = _FOLDER / "jsonschema-4.26.0.tar.gz"
    if not archive.is_file():
        _FOLDER.mkdir(parents=True, exist_ok=True)
        wanted = _FOLDER / "requirements.txt"
        wanted.write_text(_REQUIREMENT + "\n")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", "--require-hashes"]
        subprocess.run([*command, "--dest", _FOLDER, "--requirement", wanted], check=True)
    with tarfile.open(archive) as files:
        files.extractall(_FOLDER, filter="data")
    return _FOLDER / "jsonschema-4.26.0" / _TESTS


def cases(folder: Path) -> Iterator[Case]:
    """All schemas of the draft, in the order of their files."""
    for file in sorted(folder.rglob("*.json")):
        for each in json.loads(file.read_text(encoding="utf-8")):
            yield Case(str(file.relative_to(folder)), each["description"], each["schema"], each["tests"])
