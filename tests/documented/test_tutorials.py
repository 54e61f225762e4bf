"""The tutorials, run from top to bottom: commands, Python, and what they show.

`cleangpt` and `splitlearn` run in this process, a line that ends in & as a process of its own, everything else in bash.
Addresses with default ports stand for free ports. Of what a tutorial shows, the numbers may be others.
"""

import io
import json
import logging
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from time import monotonic
from typing import Any

import httpx
import pytest
import structlog
from PIL import Image

from cleangpt.cli.__main__ import main as cleangpt
from splitlearn_cli.__main__ import main as splitlearn
from support.running_split import free_port

_FOLDER = Path(__file__).parents[2] / "docs" / "tutorials"
_BLOCK = re.compile(r"^```(bash|python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"\d[\d,.]*\d|\d")
_BEFORE = {"distil": "train_cut_serve", "evaluate": "distil"}
_PATIENCE_SECONDS = 60.0


class Workplace:
    """A folder in which tutorials are run, and what stays between their blocks: variables, and jobs behind &."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.n_blocks: dict[str, int] = {}
        self._trunk, self._client = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        self._jobs: list[subprocess.Popen[str]] = []

    def finish(self, name: str) -> None:
        """Runs a tutorial, and those that it goes on from, unless that is done already."""
        if name in self.n_blocks:
            return
        if name in _BEFORE:
            self.finish(_BEFORE[name])
        self._jobs = []
        variables: dict[str, Any] = {}
        shown = ""
        blocks = _BLOCK.findall((_FOLDER / f"{name}.md").read_text(encoding="utf-8"))
        with chdir(self.folder):
            for language, text in blocks:
                if language == "text":
                    _compare(text, shown)
                elif language == "python":
                    shown = self._python(text, variables)
                else:
                    lines = text.replace("\\\n", " ").splitlines()
                    shown = "".join(self._command(self._here(line)) for line in lines)
        self.n_blocks[name] = len(blocks)
        assert all(job.poll() is not None for job in self._jobs), f"{name} leaves something running"

    def close(self) -> None:
        for job in self._jobs:
            job.kill()
            job.communicate()

    @property
    def environment(self) -> dict[str, str]:
        """Ports that are free, and one thread: what the commands of the project take from their surroundings."""
        return {
            "SPLITLEARN_TRUNK_PORT": self._trunk.rpartition(":")[2],
            "SPLITLEARN_TRUNK_METRICS_PORT": "0",
            "SPLITLEARN_CLIENT_PORT": self._client.rpartition(":")[2],
            "SPLITLEARN_CLIENT_TRUNK": self._trunk,
            "SPLITLEARN_GENERATE_URL": f"http://{self._client}",
            "OMP_NUM_THREADS": "1",
            "NO_PROXY": "127.0.0.1",
        }

    def _here(self, text: str) -> str:
        return text.replace("127.0.0.1:50051", self._trunk).replace("127.0.0.1:8000", self._client)

    def _python(self, text: str, variables: dict[str, Any]) -> str:
        shown = io.StringIO()
        with redirect_stdout(shown):
            exec(compile(self._here(text), "tutorial", "exec"), variables)
        return shown.getvalue()

    def _command(self, line: str) -> str:
        if line.endswith("&"):
            self._start(shlex.split(line.removesuffix("&")))
            return ""
        words = shlex.split(line)
        if words[0] == "kill":
            for number in words[1:]:
                job = self._jobs[int(number.removeprefix("%")) - 1]
                job.terminate()
                _, err = job.communicate(timeout=_PATIENCE_SECONDS)
                assert job.returncode == 0, err
            return ""
        if verb := {"cleangpt": cleangpt, "splitlearn": splitlearn}.get(words[0]):
            out, err = io.StringIO(), io.StringIO()
            with redirect_stdout(out), redirect_stderr(err):
                code = verb(words[1:])
            assert code == 0, f"{line}\n{err.getvalue()}"
            return out.getvalue()
        return subprocess.run(["bash", "-ec", line], check=True, capture_output=True, text=True).stdout

    def _start(self, words: list[str]) -> None:
        """Returns when the service can be asked."""
        assert words[0] == "splitlearn"
        command = [sys.executable, "-m", "splitlearn_cli", "--log-format", "json", *words[1:]]
        job = subprocess.Popen(command, env={**os.environ, **self.environment}, stderr=subprocess.PIPE, text=True)
        self._jobs.append(job)
        assert job.stderr is not None
        said = []
        for line in job.stderr:
            said.append(line)
            if line.startswith("{") and json.loads(line).get("event") == "serving":
                break
        else:
            raise AssertionError("".join(said))
        if words[1] == "client":
            deadline = monotonic() + _PATIENCE_SECONDS
            while not httpx.get(f"http://{self._client}/ready", trust_env=False).is_success:
                assert monotonic() < deadline


def _compare(shown: str, found: str) -> None:
    """Every line of the tutorial was printed, in this order, but for numbers and the width of columns."""
    lines = iter([_plain(line) for line in found.splitlines()])
    for line in shown.splitlines():
        assert _plain(line) in lines, f"the tutorial shows\n{line}\nand what was printed is\n{found}"


def _plain(line: str) -> str:
    return " ".join(_NUMBER.sub("#", line).split())


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    """One folder for all: a tutorial goes on where the one before it ended."""
    place = Workplace(tmp_path_factory.mktemp("tutorials"))
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        stack.callback(place.close)
        # told before the commands set them, so that they are taken back
        for name in ("GOMP_SPINCOUNT", "TRANSFORMERS_VERBOSITY"):
            patch.setenv(name, os.environ.get(name, ""))
        patch.setattr(sys, "excepthook", sys.excepthook)
        for name, value in place.environment.items():
            patch.setenv(name, value)
        yield place
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def _is_drawn(file: Path) -> bool:
    with Image.open(file) as picture:
        colors = picture.convert("RGB").getcolors(maxcolors=1 << 24)
    return colors is not None and len(colors) > 16


def test_train_cut_serve(workplace: Workplace) -> None:
    workplace.finish("train_cut_serve")
    assert workplace.n_blocks["train_cut_serve"] >= 9
    losses = json.loads((workplace.folder / "model" / "history.json").read_text())["losses"]
    assert sum(losses[-5:]) / 5 < 0.8 * losses[0]
    # what the worker was given: its own layers, and no tokenizer
    assert sorted(file.name for file in (workplace.folder / "worker").iterdir()) == [
        "manifest.json",
        "mid.00001.safetensors",
        "mid.00002.safetensors",
    ]


def test_distil(workplace: Workplace) -> None:
    workplace.finish("distil")
    found = json.loads((workplace.folder / "student" / "history.json").read_text())
    for stage in (*found["blocks"], found["head"]):
        assert sum(stage["losses"][-5:]) < 0.9 * sum(stage["losses"][:5])
    assert (workplace.folder / "from_afar" / "shadow" / "model.safetensors").exists()
    assert not (workplace.folder / "client" / "mid.00001.safetensors").exists()


def test_evaluate(workplace: Workplace) -> None:
    workplace.finish("evaluate")
    found = json.loads((workplace.folder / "student.json").read_text())
    assert found["teacher"]["loss"] < found["student"]["loss"]
    assert found["agreement"]["top_1"] > 0.2
    assert len(found["comparisons"]) == 4
    tokens = json.loads((workplace.folder / "tokens.json").read_text())
    assert (tokens["samples"], tokens["vocabulary"]) == (12, 512)
    assert _is_drawn(workplace.folder / "student.png")
    assert _is_drawn(workplace.folder / "tokens.png")


@pytest.mark.parametrize(
    "file", [*sorted(_FOLDER.glob("*.md")), _FOLDER.parent / "cleangpt.md"], ids=lambda file: file.stem
)
def test_links_between_documents_lead_somewhere(file: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", file.read_text(encoding="utf-8")):
        assert (file.parent / target).exists(), target


def test_what_a_tutorial_shows_is_compared() -> None:
    _compare("a 1.5 MB\nc 3,000\n", "a   20.25 MB\nb\nc 7\n")
    with pytest.raises(AssertionError, match="the tutorial shows"):
        _compare("c 1\na 1\n", "a 1\nc 1\n")
