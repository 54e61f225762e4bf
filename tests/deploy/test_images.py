"""The two images: base, labels, layers, sizes, and the list of what is in them."""

import json
import re
import shutil
import subprocess
import tomllib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from support.compose_stack import COMPOSE_FILE, ROOT, Stack, docker

IMAGES = ("client", "trunk")
# What an image adds to its base, in MB. Raise a bound when there is a reason to, and say so in the commit.
LARGEST = {"client": 1240, "trunk": 1220}
# What an edit of the sources replaces.
LARGEST_EDIT = 10
METADATA = ("ARG", "CMD", "ENTRYPOINT", "ENV", "EXPOSE", "HEALTHCHECK", "LABEL", "MAINTAINER", "STOPSIGNAL", "USER")
FIRST_STEP = "useradd"
LABEL = "org.opencontainers.image."
BASE = "python:3.11-slim-bookworm"


@dataclass(frozen=True)
class Layer:
    digest: str
    n_bytes: int
    made_by: str


def inspected(image: str) -> dict[str, Any]:
    (found,) = json.loads(docker("image", "inspect", image))
    return dict(found)


def layers(image: str) -> list[Layer]:
    """What the Dockerfile's own steps made, in their order."""
    history = docker("history", "--no-trunc", "--human=false", "--format", "{{.Size}}\t{{.CreatedBy}}", image)
    steps = [line.split("\t") for line in history.splitlines()]
    own = next(number for number, (_, made_by) in enumerate(steps) if FIRST_STEP in made_by) + 1
    made = [step for step in steps[:own] if not step[1].startswith(METADATA)]
    digests = inspected(image)["RootFS"]["Layers"][::-1]
    return [Layer(digest, int(n_bytes), made_by) for digest, (n_bytes, made_by) in zip(digests, made, strict=False)][
        ::-1
    ]


def megabytes(found: list[Layer]) -> float:
    return sum(layer.n_bytes for layer in found) / 1e6


def labels(image: str) -> dict[str, str]:
    found = inspected(image)["Config"]["Labels"]
    return {name.removeprefix(LABEL): value for name, value in found.items() if name.startswith(LABEL)}


@dataclass(frozen=True)
class Build:
    """Images of a project of their own, and what the builder said."""

    stack: Stack
    said: str

    def image(self, name: str) -> str:
        return f"{self.stack.project}-{name}"

    def is_cached(self, part: str) -> set[bool]:
        """Of each step whose command has this part, whether it was done before."""
        steps: dict[str, str] = dict(re.findall(r"^#(\d+) (\[.*)$", self.said, re.MULTILINE))
        cached = {*re.findall(r"^#(\d+) CACHED$", self.said, re.MULTILINE)}
        return {number in cached for number, step in steps.items() if part in step}


def built(stack: Stack) -> Iterator[Build]:
    try:
        done = stack.compose_that_may_fail("--progress", "plain", "build", *IMAGES)
        assert done.returncode == 0, done.stderr
        yield Build(stack, done.stdout + done.stderr)
    finally:
        stack.compose("down", "--rmi", "local")


@pytest.fixture(scope="module")
def other(stack: Stack) -> Iterator[Build]:
    """Built with all arguments, on a base that only has a label more."""
    base = f"{stack.project}-base"
    given = (
        ("BASE_IMAGE", base),
        ("IMAGE_VERSION", "7.8.9"),
        ("IMAGE_REVISION", "abc"),
        ("IMAGE_CREATED", "2026-01-02"),
    )
    subprocess.run(
        ["docker", "build", "--quiet", "--tag", base, "-"],
        input=f"FROM {BASE}\nLABEL of.the.base=yes\n".encode(),
        check=True,
        capture_output=True,
    )
    try:
        yield from built(replace(stack, project=f"{stack.project}-other", variables=(*stack.variables, *given)))
    finally:
        docker("image", "rm", base)


@pytest.fixture(scope="module")
def edited(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Build]:
    """Built from a checkout in which a source file of both images has a line that was never there."""
    root = tmp_path_factory.mktemp("checkout")
    for name in ("shared", "services", "constraints", "deploy"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info"))
    for path in [
        *ROOT.glob("Dockerfile.*"),
        *map(ROOT.joinpath, (COMPOSE_FILE, ".dockerignore", "pyproject.toml", "setup.py")),
    ]:
        shutil.copy2(path, root)
    with (root / "shared" / "splitlearn_comm" / "client.py").open("a") as file:
        file.write(f"# {uuid.uuid4()}\n")
    yield from built(replace(stack, project=f"{stack.project}-edited", root=root))


# --- base and labels -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", IMAGES)
def test_every_stage_is_built_on_the_base_of_the_argument(name: str) -> None:
    text = (ROOT / f"Dockerfile.{name}").read_text(encoding="utf-8")
    assert re.findall(r"^ARG BASE_IMAGE=(.*)$", text, re.MULTILINE) == [BASE]
    assert {*re.findall(r"^FROM (\S+)", text, re.MULTILINE)} == {"${BASE_IMAGE}"}
    assert text.index("ARG BASE_IMAGE") < text.index("FROM ")


def test_the_default_version_is_the_project_s() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    for name in IMAGES:
        text = (ROOT / f"Dockerfile.{name}").read_text(encoding="utf-8")
        assert re.findall(r"^ARG IMAGE_VERSION=(.*)$", text, re.MULTILINE) == [version]
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    assert f"#IMAGE_VERSION={version}\n" in example
    assert f"#BASE_IMAGE={BASE}\n" in example


@pytest.mark.docker
@pytest.mark.parametrize("name", IMAGES)
def test_an_image_says_what_it_is_without_any_argument(stack: Stack, name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = labels(f"{stack.project}-{name}")
    assert name in found.pop("title")
    assert found.pop("description")
    assert found == {
        "source": project["urls"]["Homepage"],
        "licenses": project["license"],
        "version": project["version"],
        "base.name": BASE,
        "revision": "",
        "created": "",
    }


@pytest.mark.docker
@pytest.mark.parametrize("name", IMAGES)
def test_arguments_choose_the_base_and_the_labels_and_change_no_layer(stack: Stack, other: Build, name: str) -> None:
    image = other.image(name)
    found = labels(image)
    assert [found[each] for each in ("version", "revision", "created")] == ["7.8.9", "abc", "2026-01-02"]
    assert found["base.name"] == f"{stack.project}-base"
    assert inspected(image)["Config"]["Labels"]["of.the.base"] == "yes"
    assert inspected(image)["RootFS"] == inspected(f"{stack.project}-{name}")["RootFS"]


# --- layers and sizes ------------------------------------------------------------------------------------------------


@pytest.mark.docker
@pytest.mark.parametrize("name", IMAGES)
def test_an_image_is_not_larger_than_its_bound(stack: Stack, name: str) -> None:
    code = "from importlib.metadata import distributions; print(json.dumps([each.name for each in distributions()]))"
    if any("cuda" in package or "nvidia" in package for package in stack.python(name, code)):
        pytest.skip("the bounds are for torch without CUDA: TORCH_INDEX")
    image = f"{stack.project}-{name}"
    own = layers(image)
    for layer in own:
        print(f"{layer.n_bytes / 1e6:9.1f} MB  {layer.made_by[:90]}")
    print(f"{name}: {inspected(image)['Size'] / 1e6:.0f} MB, of which {megabytes(own):.0f} are not its base")
    assert 0 < megabytes(own) <= LARGEST[name]


@pytest.mark.docker
def test_the_images_share_the_layer_with_torch(stack: Stack) -> None:
    client, trunk = (layers(f"{stack.project}-{name}") for name in IMAGES)
    common = [layer for layer in trunk if layer in client]
    assert megabytes(common) > 0.95 * megabytes(trunk)


@pytest.mark.docker
@pytest.mark.parametrize("name", IMAGES)
def test_an_edit_of_the_sources_replaces_no_layer_with_dependencies(stack: Stack, edited: Build, name: str) -> None:
    before, after = layers(f"{stack.project}-{name}"), layers(edited.image(name))
    new = [layer for layer in after if layer not in before]
    assert any("/wheels/" in layer.made_by for layer in new)
    assert not any("constraints/cpu.txt" in layer.made_by for layer in new)
    assert megabytes(new) < LARGEST_EDIT


@pytest.mark.docker
def test_an_edit_of_the_sources_compiles_no_kernel(edited: Build) -> None:
    assert edited.is_cached("build_ext") == {True}
    assert edited.is_cached("_kernels*.so") == {False}


# --- what is in them -------------------------------------------------------------------------------------------------


@pytest.mark.docker
def test_the_bill_of_materials_lists_the_packages_of_the_image(stack: Stack, tmp_path: Path) -> None:
    images = {name: f"{stack.project}-{name}" for name in IMAGES}
    words = ["make", "sbom", f"IMAGES={' '.join(images.values())}", f"SBOM_OUT={tmp_path}"]
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True)
    code = (
        "from importlib.metadata import distributions\n"
        "print(json.dumps([[each.name, each.version] for each in distributions()]))"
    )
    for name, image in images.items():
        bill = json.loads((tmp_path / image / "bom.json").read_text(encoding="utf-8"))
        assert bill["bomFormat"] == "CycloneDX"
        itself = bill["metadata"]["component"]
        listed = {(each["name"], each["version"]) for each in [itself, *bill["components"]]}
        assert {name for name, _ in listed} >= {"splitlearn", "torch", "grpcio", "transformers"}
        assert listed == {(name, version) for name, version in stack.python(name, code)}
