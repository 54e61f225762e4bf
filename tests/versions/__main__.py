"""`make test-versions`: the edge to transformers and torch, with the oldest and the newest versions that we allow.

For each, one after the other, it builds an environment, runs the tests of equivalence, those of the edge, and the walk
over all architectures, writes what came of them, and deletes the environment. It takes about an hour on two cores.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from tests.versions.edges import ROOT, Edge, edges, input_hash
from tests.versions.environment import Environment, environment

TESTS = ("tests/equivalence", "tests/unit/splitlearn/hf", "tests/unit/splitlearn/test_torch_private.py")
FOLDER = ROOT / "build" / "versions"


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("names", nargs="*", metavar="EDGE", help="oldest, newest, or both")
    chosen = arguments.parse_args().names
    known = {edge.name: edge for edge in edges()}
    if set(chosen) - known.keys():
        arguments.error(f"the edges are {', '.join(known)}")
    os.nice(5)
    return max(run(known[name]) for name in chosen or known)


def run(edge: Edge) -> int:
    """Writes what came of one edge; 0 if nothing failed."""
    began = time.monotonic()
    inputs = input_hash(edge)
    with environment(edge, FOLDER / edge.name) as built:
        versions = built.versions()
        _say(edge, f"torch {versions['torch']}, transformers {versions['transformers']}", began)
        outcome, failed = examine(built, lambda what: _say(edge, what, began))
    edge.results.write_text(json.dumps({"inputs": inputs, "versions": versions, **outcome}, indent=1) + "\n")
    _say(edge, f"failed: {', '.join(failed)}" if failed else "passed", began)
    return int(bool(failed))


def examine(built: Environment, say: Callable[[str], None]) -> tuple[dict[str, Any], list[str]]:
    """Outcomes of the tests by their names, and of the walk by model type; and the names of those that failed."""
    with tempfile.TemporaryDirectory() as folder:
        report, found = Path(folder) / "report.xml", Path(folder) / "walk.json"
        options = ["-p", "no:cacheprovider", "-q", "-n", "2", "--dist", "loadfile", "--timeout", "900"]
        status = built.run("-m", "pytest", *options, "--junitxml", report, *TESTS)
        if not report.exists():
            sys.exit(f"the tests did not run: pytest ended with {status}")
        tests = outcomes(report.read_text(encoding="utf-8"))
        say(", ".join(f"{len(names)} tests {outcome}" for outcome, names in tests.items()))
        status = built.run("-m", "architectures.walk", "--json", found, PYTHONPATH=str(ROOT / "tests"))
        if not found.exists():
            sys.exit(f"the walk over all architectures ended with {status}")
        walked = json.loads(found.read_text(encoding="utf-8"))
    outcome = {
        "tests": tests,
        "lacks": walked["lacks"],
        "types": walked["types"],
    }
    return outcome, [*tests["failed"], *walked["wrong"]]


def outcomes(report: str) -> dict[str, list[str]]:
    """The names of tests by what became of them, of pytest's report in JUnit's form."""
    found: dict[str, list[str]] = {"passed": [], "skipped": [], "failed": []}
    for case in ElementTree.fromstring(report).iter("testcase"):
        parts = {child.tag for child in case}
        outcome = "failed" if parts & {"failure", "error"} else "skipped" if "skipped" in parts else "passed"
        found[outcome].append(f"{case.get('classname')}::{case.get('name')}")
    # one that fails at its end comes twice
    found["passed"] = list(set(found["passed"]) - set(found["failed"]))
    return {outcome: sorted(set(names)) for outcome, names in found.items()}


def _say(edge: Edge, what: str, began: float) -> None:
    print(f"{edge.name}: {what} ({(time.monotonic() - began) / 60:.1f} minutes)", flush=True)


if __name__ == "__main__":
    sys.exit(main())
