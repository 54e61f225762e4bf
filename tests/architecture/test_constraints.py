"""A fresh clone, the images and CI take the versions of constraints/cpu.txt, not the newest torch with its CUDA."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
CONSTRAINTS = "constraints/cpu.txt"
DOCKERFILES = sorted(each.name for each in ROOT.glob("Dockerfile.*"))


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def unconstrained(text: str) -> list[str]:
    """Commands that have pip choose versions of the project's dependencies, and do not name the constraints."""
    commands = re.findall(r"\bpip (?:install|wheel)\b[^&|;\n]*", text.replace("\\\n", " "))
    return [each for each in commands if "--no-deps" not in each and "ziglang" not in each and CONSTRAINTS not in each]


def make(*arguments: str) -> str:
    """What make would do."""
    return subprocess.run(
        ["make", "--dry-run", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout


def test_the_constraints_name_one_version_of_torch_and_transformers_inside_the_window() -> None:
    pinned = [Requirement(line) for line in text_of(CONSTRAINTS).splitlines() if not line.startswith("#")]
    window = {
        each.name: each.specifier
        for each in map(Requirement, tomllib.loads(text_of("pyproject.toml"))["project"]["dependencies"])
    }
    assert {each.name for each in pinned} == {"torch", "transformers"}
    for each in pinned:
        (pin,) = each.specifier
        assert pin.operator == "=="
        assert pin.version in window[each.name]


@pytest.mark.parametrize("verb", ["run", "test"])
def test_a_fresh_clone_is_set_up_with_them(verb: str, tmp_path: Path) -> None:
    told = make(verb, f"VENV={tmp_path / 'venv'}")
    assert "pip install" in told
    assert not unconstrained(told)


@pytest.mark.parametrize("stamp", ["run.stamp", "dev.stamp"])
def test_an_environment_is_set_up_again_when_they_change(stamp: str, tmp_path: Path) -> None:
    (tmp_path / stamp).touch()
    assert "pip install" not in make(str(tmp_path / stamp), f"VENV={tmp_path}")
    assert "pip install" in make("--what-if", CONSTRAINTS, str(tmp_path / stamp), f"VENV={tmp_path}")


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_images_are_built_with_them(dockerfile: str) -> None:
    text = text_of(dockerfile)
    assert not unconstrained(text)
    assert re.search(rf"^COPY {CONSTRAINTS} ", text, re.MULTILINE)
    assert "!constraints/" in text_of(".dockerignore").splitlines()


def test_ci_installs_by_make_alone_and_caches_by_them() -> None:
    workflow = text_of(".github/workflows/ci.yml")
    assert "pip install" not in workflow + text_of(".ci/run")
    steps = yaml.safe_load(workflow)["jobs"]["step"]["steps"]
    assert any(CONSTRAINTS in step.get("with", {}).get("cache-dependency-path", "") for step in steps)


@pytest.mark.parametrize(
    "line", ["pip install .", 'pip install \\\n  --quiet ".[trunk]"', "x && .venv/bin/pip install -e ."]
)
def test_a_command_without_them_is_seen(line: str) -> None:
    assert unconstrained(line)
