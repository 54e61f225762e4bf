"""What runs first on a machine with a GPU, run here: on a Python that has torch, and little else of what we need."""

import importlib.metadata
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from splitlearn.backends.cpu.kernels import INSTRUCTION_SETS
from support.distributions import tracked_files
from tests.gpu.machine import IMAGE_HAS, MOST_BYTES, TOO_LONG, WHEELS, Log
from tests.gpu.wheels import PLATFORMS, fetch

ROOT = Path(__file__).parents[2]
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
# of images with CUDA that one meets
THERE = "3.12"


def required(names: Iterable[str], python: str, among: list[importlib.metadata.Distribution]) -> set[str]:
    """The distributions of these names that pip would install along with a version of Python, by pip's spelling."""
    known = {canonicalize_name(each.metadata["Name"]): each for each in among}
    found: set[str] = set()
    waiting = {(canonicalize_name(name), "") for name in names}
    seen: set[tuple[str, str]] = set()
    while waiting - seen:
        name, extra = min(waiting - seen)
        seen.add((name, extra))
        found.add(name)
        environment = {"extra": extra, "python_version": python, "python_full_version": f"{python}.3"}
        for each in map(Requirement, (known[name].requires or ()) if name in known else ()):
            if each.marker is None or each.marker.evaluate(environment):
                waiting |= {(canonicalize_name(each.name), wanted) for wanted in ("", *each.extras)}
    return found


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A Python with torch in an environment of its own, as images have it."""
    folder = tmp_path / "image"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    (site,) = (folder / "lib").glob("python*/site-packages")
    for name in required(["torch", "numpy"], HERE, list(importlib.metadata.distributions())) - {"setuptools"}:
        installed = importlib.metadata.distribution(name)
        for part in {file.parts[0] for file in installed.files or ()} - {"..", "__pycache__"}:
            if not (site / part).exists():
                (site / part).symlink_to(str(installed.locate_file(part)))
    return folder / "bin" / "python"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What a machine is sent: the tracked files."""
    folder = tmp_path / "checkout"
    for name in tracked_files():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


def make(checkout: Path, verb: str, python: Path) -> str:
    command = ["make", verb, f"PYTHON={python}", "DRY_RUN=1"]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done.stdout


@pytest.mark.slow
def test_the_wheels_and_the_image_are_enough_to_build_the_kernels_and_to_collect_the_tests(
    checkout: Path, image: Path
) -> None:
    fetch(checkout / WHEELS, HERE)
    told = make(checkout, "gpu-check", image)
    assert re.search(r"^GPU: none", told, re.MULTILINE)
    libraries = {each.stem for each in (checkout / "shared/splitlearn/backends/cpu/kernels").glob("*.so")}
    assert libraries == ({f"_kernels_{name}" for name in INSTRUCTION_SETS} if shutil.which("cc") else set())
    assert int(re.search(r"(\d+)/\d+ tests collected", told)[1]) > 10  # type: ignore[index]
    # the checkout's own, and of the image not what was carried
    shown = subprocess.run(
        [checkout / "build/gpu/venv/bin/python", "-c", "import splitlearn, torch, transformers as t\n"
         "print(splitlearn.__file__, torch.__file__, t.__file__)"],
        capture_output=True, text=True, check=True, cwd="/",
    )  # fmt: skip
    ours, torchs, carried = shown.stdout.split()
    assert ours.startswith(str(checkout / "shared"))
    assert torchs.startswith(str(image.parents[1]))
    assert carried.startswith(str(checkout / "build/gpu/venv"))

    log = (checkout / "build/gpu/check.log").read_text()
    assert "tests collected" in log
    assert "There is no CUDA device here" in make(checkout, "gpu-bench", image)


@pytest.mark.slow
def test_the_wheels_for_the_python_of_images_are_complete_and_few(tmp_path: Path) -> None:
    wheels = fetch(tmp_path / "wheels", THERE)
    assert sum(each.stat().st_size for each in wheels) <= MOST_BYTES
    # for that Python and platform, or pip does not unpack them
    command = [sys.executable, "-m", "pip", "install", "-qq", "--no-index", "--no-deps", "--only-binary=:all:"]
    command += ["--target", str(tmp_path / "site"), "--python-version", THERE, "--implementation", "cp"]
    subprocess.run([*command, *(f"--platform={each}" for each in PLATFORMS), *wheels], check=True)
    carried = list(importlib.metadata.distributions(path=[str(tmp_path / "site")]))
    names = {canonicalize_name(each.metadata["Name"]) for each in carried}
    assert not names & IMAGE_HAS
    assert required(names, THERE, carried) - names <= IMAGE_HAS


def test_what_hangs_is_ended_with_its_children_and_what_it_said_is_in_the_file(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        log = Log(file, 1)
        began = time.monotonic()
        status = log.run("bash", "-c", "echo first; sleep 99 & wait")
        assert log.run("true") == TOO_LONG
    assert status == TOO_LONG
    assert time.monotonic() - began < 60
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[1] == "first"
    assert lines[2].startswith("[out of time after")


def test_lines_are_in_the_file_while_the_process_runs(tmp_path: Path) -> None:
    path = tmp_path / "log"
    waits = f"echo begun; until grep -q begun {path}; do :; done; echo seen"
    with path.open("w") as file:
        assert Log(file, 60).run("bash", "-c", waits) == 0
    assert "seen" in path.read_text().splitlines()
