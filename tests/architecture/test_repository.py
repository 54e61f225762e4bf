"""What belongs to the repository and not to the product: CI, hooks, templates."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from support.chromium import PROGRAMS

ROOT = Path(__file__).parents[2]
CI = ROOT / ".ci" / "run"

VERBS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def test_the_workflow_runs_the_steps_of_ci_and_each_is_a_verb() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    steps = set(re.findall(r"^ *step make ([a-z-]+)$", CI.read_text(encoding="utf-8"), re.MULTILINE))

    assert set(workflow["jobs"]["step"]["strategy"]["matrix"]["verb"]) == steps
    assert steps <= VERBS


def test_verbs_that_hooks_and_contributors_are_told_exist() -> None:
    told = [ROOT / ".pre-commit-config.yaml", ROOT / "CONTRIBUTING.md"]
    found = {
        verb for page in told for verb in re.findall(r"(?:`|: )make ([a-z]+(?:-[a-z]+)*)", page.read_text("utf-8"))
    }
    assert found <= VERBS


def test_templates_of_issues_are_read_as_forms() -> None:
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert path.name == "config.yml" or {"name", "description", "body"} <= set(form)


def test_ci_is_content_with_every_browser_that_the_tests_take() -> None:
    found = re.search(r"^command -v (.+) >/dev/null \|\| missing\+=\(chromium\)$", CI.read_text(), re.MULTILINE)
    assert found is not None
    assert tuple(found[1].split()) == PROGRAMS


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Where .ci/run finds a `make` that writes down what it is told; it fails at test-snippets if so asked."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(CI, tmp_path / ".ci")
    make = tmp_path / "bin" / "make"
    make.parent.mkdir()
    make.write_text(
        '#!/bin/sh\necho "$1" >>told\n[ "$1" != "$FAILING" ] || exit 7\n[ "$1" != "$HANGING" ] || exec sleep 99\n'
    )
    make.chmod(0o755)
    for name in ("services", "README.md"):
        (tmp_path / name).write_text("as it was")
    commit(tmp_path)
    return tmp_path


def commit(checkout: Path) -> None:
    author = ["-c", "user.name=ci", "-c", "user.email=ci@localhost"]
    for words in (["init", "--quiet"], ["add", ".ci", "services", "README.md"], ["commit", "--quiet", "-m", "state"]):
        subprocess.run(["git", *author, *words], cwd=checkout, check=True)


def ci(checkout: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    found = {**os.environ, "PATH": f"{checkout / 'bin'}:{os.environ['PATH']}", **environment}
    return subprocess.run(
        [checkout / ".ci" / "run"], env=found, capture_output=True, text=True, check=False, timeout=60
    )


def test_ci_prints_how_long_each_step_took(checkout: Path) -> None:
    done = ci(checkout)

    assert done.returncode == 0, done.stderr
    told = (checkout / "told").read_text().split()
    table = [line.split() for line in done.stdout.splitlines() if line]
    assert [row[0] for row in table] == ["step", *told, "total"]
    assert all(re.fullmatch(r"\d+:\d\d", row[1]) for row in table[1:])


def test_ci_ends_at_the_first_step_that_fails_and_says_which(checkout: Path) -> None:
    done = ci(checkout, FAILING="test-snippets")

    assert done.returncode == 7
    assert (checkout / "told").read_text().split()[-1] == "test-snippets"
    assert "test-snippets" in done.stdout


def test_ci_fails_when_all_steps_together_take_too_long(checkout: Path) -> None:
    done = ci(checkout, CI_SECONDS="2", HANGING="test-architectures")

    assert done.returncode != 0
    assert "all steps together may take 0:02 minutes" in done.stderr
    assert (checkout / "told").read_text().split()[-1] == "test-architectures"


HEAVY = [
    "test-integration",
    "test-architectures",
    "test-snippets",
    "test-gpu-check",
    "test-helm",
    "test-neon",
    "test-dashboards",
    "test-faults",
    "test-vllm",
    "test-clients",
]


def run_by(checkout: Path, **environment: str) -> list[str]:
    """The verbs that one run of CI calls."""
    told = checkout / "told"
    told.unlink(missing_ok=True)
    assert ci(checkout, **environment).returncode == 0
    return told.read_text().split()


def test_ci_skips_a_heavy_step_until_an_input_of_it_is_another(checkout: Path) -> None:
    assert run_by(checkout) == ["test", *HEAVY]
    assert run_by(checkout) == ["test"]
    assert run_by(checkout, CI_ALL="1") == ["test", *HEAVY]

    (checkout / "README.md").write_text("not committed")
    assert run_by(checkout) == ["test", "test-snippets"]
    assert run_by(checkout) == ["test", "test-snippets"]
    commit(checkout)
    assert run_by(checkout) == ["test", "test-snippets"]
    assert run_by(checkout) == ["test"]

    (checkout / "services").write_text("another")
    commit(checkout)
    assert run_by(checkout) == ["test", *HEAVY]


def test_ci_does_not_take_a_step_that_failed_for_one_that_passed(checkout: Path) -> None:
    assert ci(checkout, FAILING="test-snippets").returncode == 7
    assert run_by(checkout) == ["test", *HEAVY[HEAVY.index("test-snippets") :]]


def test_inputs_of_heavy_steps_exist() -> None:
    text = CI.read_text(encoding="utf-8")
    named = re.findall(r"^(?:product|shared_tests)='(.*)'$", text, re.MULTILINE)
    named += re.findall(r'^    \[[a-z-]+\]="(.*)"$', text, re.MULTILINE)
    paths = {path for line in named for path in line.split() if not path.startswith("$")}
    assert len(paths) > 15
    assert [path for path in paths if not (ROOT / path).exists()] == []
