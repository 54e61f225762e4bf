"""Chat templates of published models, which the sdist of `llama-cpp-python` holds."""

import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).with_name("results.jsonl")
_NAME = "llama_cpp_python-0.3.36"
_REQUIREMENT = "llama-cpp-python==0.3.36 --hash=sha256:832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
_FOLDER = ROOT / "build" / "chat-templates"
_TEMPLATES = f"{_NAME}/vendor/llama.cpp/models/templates/"


def downloaded() -> list[Path]:
    """The templates, downloaded once, by the hash of the sdist."""
    archive = _FOLDER / f"{_NAME}.tar.gz"
    if not archive.is_file():
        _FOLDER.mkdir(parents=True, exist_ok=True)
        wanted = _FOLDER / "requirements.txt"
        wanted.write_text(_REQUIREMENT + "\n")
        # what pip needs to read the name in it comes as wheels
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "llama-cpp-python"]
        subprocess.run([*command, "--require-hashes", "--dest", _FOLDER, "--requirement", wanted], check=True)
    with tarfile.open(archive) as files:
        wanted_files = [each for each in files if each.name.startswith(_TEMPLATES) and each.name.endswith(".jinja")]
        files.extractall(_FOLDER, members=wanted_files, filter="data")
    return sorted((_FOLDER / _TEMPLATES).glob("*.jinja"))
