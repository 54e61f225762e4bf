"""`make test-sanitizers`: the tests that reach the C kernels, with kernels built with ASan and UBSan.

Any report ends the test run. First a read past the end of a tensor must be reported, so that silence means something.
"""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from splitlearn.backends.cpu.kernels import INSTRUCTION_SETS

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "shared/splitlearn/backends/cpu/kernels").glob("*.c"))
TESTS = ["backends/cpu"]
LIBRARIES = {f"_kernels_{name}": f"-DSIMD_{name.upper()}" for name in INSTRUCTION_SETS}
# contraction is off as in pyproject.toml: tests compare bits
FLAGS = ["-std=gnu11", "-O1", "-g", "-fno-omit-frame-pointer", "-ffp-contract=off", "-fPIC"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
OPTIONS = {
    # Python frees little at its end; a test of exhausted memory asks for more than there is
    "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:detect_odr_violation=0",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
}
READ_PAST_THE_END = """
import sys
import torch
from splitlearn.backends.cpu.kernels import available_sets, kernels
from splitlearn.backends.cpu.kernels.structs import Linear, LinearCall

if sys.argv[1] not in available_sets():
    sys.exit("not here")
library = kernels()
rows, outputs = torch.zeros(64, dtype=torch.bfloat16), torch.zeros(16, dtype=torch.bfloat16)
weight = torch.zeros(1, 8, 16, 2, dtype=torch.bfloat16)  # of 16 inputs, not of 30, which fill no tile of AMX
linear = Linear(weight=weight.data_ptr(), n_inputs=30, n_outputs=16)
library.linear(LinearCall(rows.data_ptr(), outputs.data_ptr(), 1, 64, linear, 1))
"""


def main() -> int:
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        print("no C compiler: the kernels were not tested with sanitizers")
        return 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        _build(compiler, Path(folder))
        print(f"built in {time.monotonic() - began:.0f} s", flush=True)
        # not to stderr: pytest holds it back, and a report ends the process before pytest shows it
        reports = Path(folder) / "report"
        options = {name: f"{value}:log_path={reports}" for name, value in OPTIONS.items()}
        environment = {**os.environ, **options, "SPLITLEARN_KERNELS_DIR": folder, "LD_PRELOAD": _runtime(compiler)}
        if not all(_reports(environment, Path(folder), name) for name in INSTRUCTION_SETS):
            return 1
        tests = [str(ROOT / "tests/unit/splitlearn" / test) for test in TESTS]
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-x", *tests, *sys.argv[1:]]
        status = subprocess.run(command, cwd=ROOT, env=environment).returncode
        found = _reported(Path(folder))
        print(found, end="")
        # also of a process that a test started, and whose end it took for something else
        status = status or int(bool(found))
    print(f"{'passed' if status == 0 else 'FAILED'} in {time.monotonic() - began:.0f} s")
    return status


def _build(compiler: str, folder: Path) -> None:
    """All libraries: what this machine cannot load is at least compiled."""
    warnings = shlex.split(os.environ.get("C_WARNINGS", "-Wall -Wextra"))
    options = [*FLAGS, *SANITIZERS, *warnings, "-Werror"]
    jobs = []
    for name, build in LIBRARIES.items():
        (folder / name).mkdir()
        jobs += [
            subprocess.Popen([compiler, *options, build, "-c", source, "-o", folder / name / f"{source.stem}.o"])
            for source in SOURCES
        ]
    statuses = [job.wait() for job in jobs]
    if any(statuses):
        sys.exit("the kernels do not compile")
    for name in LIBRARIES:
        library = folder / f"{name}{EXTENSION_SUFFIXES[0]}"
        objects = (folder / name).glob("*.o")
        subprocess.run([compiler, "-shared", *SANITIZERS, *objects, "-o", library], check=True)


def _runtime(compiler: str) -> str:
    """Must be loaded first: ASan, which replaces malloc, and the C++ exceptions that it intercepts."""
    names = ("libasan.so", "libstdc++.so.6")
    commands = ([compiler, f"-print-file-name={name}"] for name in names)
    return " ".join(
        subprocess.run(each, check=True, capture_output=True, text=True).stdout.strip() for each in commands
    )


def _reported(folder: Path) -> str:
    """The errors that the sanitizers wrote, which are then removed; warnings of exhausted memory are none."""
    found = {each: each.read_text() for each in sorted(folder.glob("report.*"))}
    for each in found:
        each.unlink()
    return "".join(text for text in found.values() if "ERROR: " in text or "runtime error: " in text)


def _reports(environment: Mapping[str, str], folder: Path, instruction_set: str) -> bool:
    """Whether an error in the kernels of this set is reported; True where this machine cannot run them."""
    code = [sys.executable, "-c", READ_PAST_THE_END, instruction_set]
    environment = {**environment, "SPLITLEARN_KERNELS": instruction_set}
    found = subprocess.run(code, cwd=ROOT, env=environment, capture_output=True, text=True)
    if "not here" in found.stderr:
        print(f"the processor has no {instruction_set}: these kernels were compiled with sanitizers and not run")
        return True
    if "heap-buffer-overflow" in _reported(folder):
        return True
    print(f"{instruction_set}: a read past the end of a tensor was not reported\n{found.stdout}{found.stderr}")
    return False


if __name__ == "__main__":
    sys.exit(main())
