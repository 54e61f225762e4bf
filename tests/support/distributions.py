"""What the project publishes, built from a clean copy of the checkout, and installed without a network."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, PathDistribution, distribution
from pathlib import Path
from zipfile import Path as ZipPath
from zipfile import ZipFile

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Built:
    """Paths of the two files."""

    wheel: Path
    sdist: Path


def tracked_files() -> list[str]:
    """What a commit of everything here would hold."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def copied(checkout: Path) -> Path:
    """A directory with the tracked files alone."""
    for name in tracked_files():
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, checkout / name)
    return checkout


def build(folder: Path) -> Built:
    """The sdist of the tracked files, and the wheel that is made of that sdist."""
    checkout = copied(folder / "checkout")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(checkout)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return Built(next(folder.glob("*.whl")), next(folder.glob("*.tar.gz")))


def metadata(wheel: Path) -> Distribution:
    folder = next(path for path in ZipPath(wheel).iterdir() if path.name.endswith(".dist-info"))
    return PathDistribution(folder)


class Installation:
    """An environment with a wheel and what it requires with an extra, and nothing else of what is installed here.

    What it requires is linked from the environment of the tests.
    """

    def __init__(self, folder: Path, wheel: Path, extra: str = "") -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        self.python = folder / "bin" / "python"
        self.packages = next((folder / "lib").glob("python*")) / "site-packages"
        ZipFile(wheel).extractall(self.packages)
        for installed in _required(metadata(wheel), extra):
            for name in {file.parts[0] for file in installed.files or ()} - {"..", "__pycache__"}:
                if not (self.packages / name).exists():
                    (self.packages / name).symlink_to(str(installed.locate_file(name)))

    def run(self, *words: object) -> "subprocess.CompletedProcess[str]":
        command = [str(self.python), "-I", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def _required(wheel: Distribution, extra: str) -> Iterator[Distribution]:
    """Every distribution that pip would install along on this platform."""
    seen: set[tuple[str, str]] = set()
    own = canonicalize_name(wheel.metadata["Name"])
    waiting = [(own, each) for each in ("", extra)]
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        found = wheel if name == own else distribution(name)
        for requirement in map(Requirement, found.requires or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": wanted}):
                waiting += [(canonicalize_name(requirement.name), each) for each in ("", *requirement.extras)]
        if name != own:
            yield found
