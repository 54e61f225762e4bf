"""Regenerate shared/splitlearn_comm/_proto from the .proto files; `--check` only compares.

The stubs are committed so that installing needs no compiler, and checked so that they stay current.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

PROTO_ROOT = Path(__file__).resolve().parent
SOURCE = PROTO_ROOT / "splitlearn" / "comm" / "v1" / "compute.proto"
STUBS = PROTO_ROOT.parent / "shared" / "splitlearn_comm" / "_proto"
PACKAGE_INIT = '"""Generated from proto/ by proto/generate.py; do not edit, run `make proto`."""\n'


def generate(target: Path) -> None:
    """Write the stubs of SOURCE flat into `target`."""
    # The plugin is installed beside the interpreter that runs this, which need not be on PATH.
    plugin = Path(sys.executable).parent / "protoc-gen-mypy"
    if not plugin.exists():
        sys.exit(f"{plugin} is missing; install the dev extra: pip install -e '.[dev]'")
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(
            [
                sys.executable,
                "-m",
                "grpc_tools.protoc",
                f"--proto_path={PROTO_ROOT}",
                f"--plugin=protoc-gen-mypy={plugin}",
                f"--python_out={scratch}",
                f"--grpc_python_out={scratch}",
                f"--mypy_out=quiet:{scratch}",
                str(SOURCE),
            ],
            check=True,
        )
        made = Path(scratch) / SOURCE.parent.relative_to(PROTO_ROOT)
        target.mkdir(parents=True, exist_ok=True)
        for stub in sorted(made.iterdir()):
            (target / stub.name).write_text(inside_package(stub.read_text()))
    (target / "__init__.py").write_text(PACKAGE_INIT)


def inside_package(stub: str) -> str:
    """protoc imports by the .proto path (`from splitlearn.comm.v1`), which would find another package."""
    proto_package = ".".join(SOURCE.parent.relative_to(PROTO_ROOT).parts)
    return stub.replace(f"from {proto_package} import", "from splitlearn_comm._proto import")


def stale_files(committed: Path) -> list[str]:
    """Names that a fresh generation would add, change or remove."""
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch)
        generate(fresh)
        both = names(fresh) | names(committed)
        return sorted(name for name in both if read(fresh, name) != read(committed, name))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()} if folder.is_dir() else set()


def read(folder: Path, name: str) -> str | None:
    path = folder / name
    return path.read_text() if path.exists() else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the committed stubs")
    if not parser.parse_args().check:
        generate(STUBS)
    elif stale := stale_files(STUBS):
        sys.exit(f"stale stubs in {STUBS.name}: {', '.join(stale)}; run `make proto`")


if __name__ == "__main__":
    main()
