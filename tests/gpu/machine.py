"""`make gpu-check` and `make gpu-bench`: on a machine with a GPU, a Python with torch, and no network.

Run with that Python. The wheels of `make gpu-wheels` go into an environment beside its packages, and the kernels are
compiled. Then `check` runs the tests that need a GPU, and `bench` the benchmark, whose most important row comes first.
Both write as they go, to the terminal and to a file, and end in time whatever hangs. Standard library alone.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from pathlib import Path
from typing import IO

from tests.versions.checkout import link_checkout

ROOT = Path(__file__).parents[2]
WHEELS = Path("build/gpu-wheels")
MOST_BYTES = 50_000_000
# by pip's spelling: torch, and what is large and comes with it in images, in whatever version
IMAGE_HAS = frozenset({"torch", "numpy", "hf-xet", "uvloop", "sentencepiece", "tiktoken"})
# of the whole check, and of the benchmark alone
SECONDS = {"check": 240, "bench": 420}
# what is tried where there is no GPU may be a slow machine
DRY_SECONDS = 1500
TOO_LONG = 124
# images bring plugins of pytest along: those that the tests need are named below
_ENVIRONMENT = {"PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
_PLUGINS = ("-p", "pytest_asyncio.plugin", "-p", "pytest_timeout", "-p", "no:cacheprovider")
_DEVICE = """
import sys, torch, transformers
from splitlearn.backends.cpu.kernels import kernels
found = torch.cuda.is_available()
print(f"Python {sys.version.split()[0]}, torch {torch.__version__}, transformers {transformers.__version__}")
print("GPU:", torch.cuda.get_device_name() if found else "none that torch sees")
print("kernels:", "loaded" if kernels() is not None else "none: no compiler, or a processor without the instructions")
sys.exit(0 if found or sys.argv[1:] else 3)
"""


class Log:
    """Runs processes whose output goes line by line to the terminal and to a file."""

    def __init__(self, file: IO[str], seconds: float) -> None:
        self._file = file
        self._until = time.monotonic() + seconds

    def give(self, seconds: float) -> None:
        """From now on there are so many seconds."""
        self._until = time.monotonic() + seconds

    def say(self, line: str) -> None:
        for stream in (sys.stdout, self._file):
            print(line, file=stream, flush=True)

    def run(self, *command: str | os.PathLike[str]) -> int:
        """The exit status; `TOO_LONG` if the time was over, and the process and its children were killed."""
        began = time.monotonic()
        if began >= self._until:
            return TOO_LONG
        self.say(f"$ {' '.join(map(str, command))[:200]}")
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **_ENVIRONMENT},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        over = threading.Event()

        def end() -> None:
            over.set()
            os.killpg(process.pid, signal.SIGKILL)

        timer = threading.Timer(max(0.0, self._until - began), end)
        timer.start()
        try:
            for line in process.stdout or ():
                self.say(line.rstrip("\n"))
            status = process.wait()
        finally:
            timer.cancel()
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        status = TOO_LONG if over.is_set() else status
        self.say(
            f"[{'out of time' if over.is_set() else f'ended with {status}'} after {time.monotonic() - began:.0f} s]"
        )
        return status


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("what", choices=SECONDS)
    arguments.add_argument("--out", type=Path, default=ROOT / "build" / "gpu", help="where the log goes")
    arguments.add_argument("--dry-run", action="store_true", help="no GPU: everything but the tests themselves")
    arguments.add_argument("rest", nargs="*", help="behind --: for pytest, or for the benchmark")
    given = arguments.parse_args()
    given.out = given.out.resolve()
    given.out.mkdir(parents=True, exist_ok=True)
    with (given.out / f"{given.what}.log").open("w", encoding="utf-8") as file:
        log = Log(file, DRY_SECONDS if given.dry_run else SECONDS["check"])
        python = prepare(log)
        if python is None or log.run(python, "-c", _DEVICE, *(["dry"] if given.dry_run else [])):
            return 1
        if given.what == "check":
            options = ["--collect-only"] if given.dry_run else ["-v", "--durations=5"]
            options += [*_PLUGINS, "-m", "gpu", f"--junitxml={given.out / 'check.xml'}"]
            return log.run(python, "-m", "pytest", "tests/gpu", *options, *given.rest)
        log.give(SECONDS["bench"])
        return log.run(python, "-m", "tests.benchmarks.cuda", "--out", given.out / "bench.md", *given.rest)


def prepare(log: Log) -> Path | None:
    """The Python of an environment with the wheels and the project; None where that failed."""
    wheels = sorted((ROOT / WHEELS).glob("*.whl"))
    size = sum(each.stat().st_size for each in wheels)
    log.say(f"{len(wheels)} wheels of {size / 1e6:.1f} MB in {WHEELS}")
    if not wheels or size > MOST_BYTES:
        log.say(f"run make gpu-wheels where there is a network, and bring {WHEELS}: at most {MOST_BYTES / 1e6:.0f} MB")
        return None
    folder = ROOT / "build" / "gpu" / "venv"
    shutil.rmtree(folder, ignore_errors=True)
    if log.run(sys.executable, "-m", "venv", "--without-pip", "--system-site-packages", folder):
        return None
    python = folder / "bin" / "python"
    (site,) = (folder / "lib").glob("python*/site-packages")
    # where this Python is an environment's itself, what lies in that is no system's package
    paths = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    (site / "image.pth").write_text("".join(f"{path}\n" for path in sorted(paths)))
    link_checkout(ROOT, site)
    # whatever versions the image has of the same packages, they stay as they are, and ours come first
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "-qq", "--disable-pip-version-check"]
    if log.run(*pip, "--no-index", "--no-deps", "--no-cache-dir", "--ignore-installed", *wheels):
        return None
    # all sets of kernels at once; without a compiler there are none, and it goes on
    if log.run(python, "setup.py", "--quiet", "build_ext", "--inplace", "--parallel", str(os.cpu_count() or 1)):
        return None
    return python


if __name__ == "__main__":
    sys.exit(main())
