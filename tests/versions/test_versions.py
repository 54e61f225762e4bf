"""What the tests of the edge found with the oldest and the newest versions is up to date, and no failure."""

import json
import shutil
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest

from architectures.table import RESULT
from architectures.walk import compare
from tests.versions.__main__ import outcomes
from tests.versions.checkout import link_checkout
from tests.versions.edges import COVERED, PACKAGES, ROOT, Edge, edges, input_hash

EDGES = {edge.name: edge for edge in edges()}
OLDEST, NEWEST = edges()

REPORT = """<testsuites><testsuite>
<testcase classname="tests.a" name="test_fine" /><testcase classname="tests.a" name="test_wrong"><failure /></testcase>
<testcase classname="tests.a" name="test_left_out"><skipped /></testcase>
<testcase classname="tests.b" name="test_ends_badly" />
<testcase classname="tests.b" name="test_ends_badly"><error /></testcase>
</testsuite></testsuites>"""


def result(edge: Edge) -> dict[str, Any]:
    assert edge.results.exists(), f"there is no {edge.results.name}: run make test-versions"
    return dict(json.loads(edge.results.read_text(encoding="utf-8")))


@pytest.mark.parametrize("edge", EDGES.values(), ids=EDGES)
def test_the_results_are_of_what_is_here(edge: Edge) -> None:
    found = result(edge)
    assert found["inputs"] == input_hash(edge), f"{edge.results.name} is stale: run make test-versions"
    assert all(edge.holds(package, found["versions"][package]) for package in PACKAGES)


@pytest.mark.parametrize("edge", EDGES.values(), ids=EDGES)
def test_no_test_failed_and_every_architecture_is_cut_or_refused_as_here(edge: Edge) -> None:
    found = result(edge)
    assert found["tests"]["failed"] == []
    assert len(found["tests"]["passed"]) > 100
    walked = {"transformers": found["versions"]["transformers"], "types": found["types"]}
    assert compare(json.loads(RESULT.read_text()), walked)["wrong"] == []
    assert sum(outcome["verdict"] == "equal" for outcome in found["types"].values()) >= 115


def test_the_edges_are_the_first_and_the_last_minor_release_of_the_window() -> None:
    oldest, newest = edges('[project]\ndependencies = ["torch<2.16,>=2.11", "transformers>=5.20,<5.25", "numpy>=2"]')
    assert oldest.requirements == {"torch": "torch==2.11.*", "transformers": "transformers==5.20.*"}
    assert newest.requirements == {"torch": "torch==2.15.*", "transformers": "transformers==5.24.*"}
    assert oldest.holds("torch", "2.11.0+cu130")
    assert not oldest.holds("torch", "2.12.0")
    with pytest.raises(ValueError, match=r"<3\.0 does not say"):
        edges('[project]\ndependencies = ["torch<3.0,>=2.11", "transformers>=5.20,<5.25"]')


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Nothing but what results depend on."""
    for name in COVERED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.json"))
        else:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_the_hash_needs_no_more_than_the_files_that_it_covers(checkout: Path) -> None:
    assert input_hash(NEWEST, checkout) == input_hash(NEWEST)
    assert input_hash(OLDEST) != input_hash(NEWEST)


@pytest.mark.parametrize("name", COVERED)
def test_a_changed_line_makes_results_stale(checkout: Path, name: str) -> None:
    path = checkout / name
    file = sorted(path.rglob("*.py"))[0] if path.is_dir() else path
    file.write_text(f"{file.read_text()}\nimport transformers.cache_utils\n")
    assert input_hash(NEWEST, checkout) != input_hash(NEWEST)


def test_a_new_file_makes_results_stale(checkout: Path) -> None:
    (checkout / "shared/splitlearn/hf/masks_too.py").touch()
    assert input_hash(NEWEST, checkout) != input_hash(NEWEST)


def test_empty_lines_and_places_of_our_own_modules_do_not(checkout: Path) -> None:
    file = checkout / "tests/architectures/examination.py"
    text = file.read_text()
    file.write_text(f"from support.elsewhere import (\n    one,\n    other,\n)\n{text}\n\n".replace("\n\n", "\n\n\n"))
    assert input_hash(NEWEST, checkout) == input_hash(NEWEST)


def test_an_outcome_of_each_test_is_read_from_the_report() -> None:
    assert outcomes(REPORT) == {
        "passed": ["tests.a::test_fine"],
        "skipped": ["tests.a::test_left_out"],
        "failed": ["tests.a::test_wrong", "tests.b::test_ends_badly"],
    }


def test_a_linked_checkout_has_the_entry_points_of_the_project(tmp_path: Path) -> None:
    link_checkout(ROOT, tmp_path)
    (linked,) = distributions(path=[str(tmp_path)])
    assert {each.name for each in linked.entry_points.select(group="console_scripts")} == {"splitlearn", "cleangpt"}
    (sasp,) = linked.entry_points.select(group="splitlearn.architectures", name="cleangpt_sasp")
    assert sasp.value == "cleangpt.model"
    assert (tmp_path / "checkout.pth").read_text().splitlines() == [str(ROOT / "shared"), str(ROOT / "services")]
