"""Documents as readers use them: their blocks pasted one after the other, all commands into one shell."""

import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from support.running_split import free_port

_BLOCK = re.compile(r"^```(bash|python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"\d[\d,.]*\d|\d")


def blocks(document: Path) -> list[tuple[str, str]]:
    """Language and text of each block of commands, Python, or what they print."""
    return _BLOCK.findall(document.read_text(encoding="utf-8"))


@dataclass
class Shell:
    """One bash in a folder, where `splitlearn` and `cleangpt` are the installed commands.

    Addresses with default ports stand for free ports. `errors` is what was printed on stderr, services' logs included;
    `more` goes into the environment.
    """

    folder: Path
    errors: Path
    more: dict[str, str] = field(default_factory=dict)
    trunk: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")
    client: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")

    @property
    def environment(self) -> dict[str, str]:
        """Ports that are free, and one thread: what the commands of the project take from their surroundings."""
        return {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "SPLITLEARN_LOG_FORMAT": "json",
            "SPLITLEARN_TRUNK_PORT": self.trunk.rpartition(":")[2],
            "SPLITLEARN_TRUNK_METRICS_PORT": "0",
            "SPLITLEARN_CLIENT_PORT": self.client.rpartition(":")[2],
            "SPLITLEARN_CLIENT_TRUNK": self.trunk,
            "SPLITLEARN_GENERATE_URL": f"http://{self.client}",
            "SPLITLEARN_GENERATE_WAIT": "300",
            "OMP_NUM_THREADS": "1",
            "NO_PROXY": "127.0.0.1",
            "HF_HUB_OFFLINE": "1",
            **self.more,
        }

    def here(self, text: str) -> str:
        return text.replace("127.0.0.1:50051", self.trunk).replace("127.0.0.1:8000", self.client)

    def paste(self, text: str) -> str:
        """Gives the block to the shell; what it printed on stdout. Fails the test if a command of it failed."""
        end, failed = f"end-of-block-{uuid4().hex}", f"failed-{uuid4().hex}"
        assert self._input is not None
        assert self._output is not None
        self._input.write(f"trap 'echo {failed} $? $BASH_COMMAND' ERR\n{self.here(text)}\ntrap - ERR\necho {end}\n")
        self._input.flush()
        printed: list[str] = []
        for line in self._output:
            if line.strip() == end:
                break
            printed.append(line)
            assert failed not in line, f"{line}\n{self.said()[-4000:]}"
        else:
            raise AssertionError(f"the shell has ended\n{self.said()[-4000:]}")
        return "".join(printed)

    def said(self) -> str:
        return self.errors.read_text(encoding="utf-8")

    def __enter__(self) -> "Shell":
        # with job control, as at a prompt: jobs that have ended give their numbers back
        command = ["bash", "--noprofile", "--norc", "-m"]
        with self.errors.open("w") as errors:
            self._process = subprocess.Popen(
                command,
                cwd=self.folder,
                env={**os.environ, **self.environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                # of its own, so that nothing it started outlives the test
                start_new_session=True,
            )
        self._input: IO[str] | None = self._process.stdin
        self._output: IO[str] | None = self._process.stdout
        return self

    def __exit__(self, *_: object) -> None:
        # whatever a block has left running
        self._process.communicate("kill $(jobs -p) 2>/dev/null; wait\n", timeout=60)


def follow(document: Path, shell: Shell) -> int:
    """Pastes every block, compares what the document shows with what was printed; how many blocks there were."""
    variables: dict[str, Any] = {}
    shown = ""
    found = blocks(document)
    for language, text in found:
        if language == "text":
            compare(text, shown)
        elif language == "python":
            with chdir(shell.folder), _environment(shell.environment), redirect_stdout(io.StringIO()) as printed:
                exec(compile(shell.here(text), document.name, "exec"), variables)
            shown = printed.getvalue()
        else:
            shown = shell.paste(text)
    return len(found)


@contextmanager
def _environment(names: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(names)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def compare(shown: str, found: str) -> None:
    """Every line of the document was printed, in this order, but for numbers and the width of columns."""
    lines = iter([_plain(line) for line in found.splitlines()])
    for line in shown.splitlines():
        assert _plain(line) in lines, f"the document shows\n{line}\nand what was printed is\n{found}"


def _plain(line: str) -> str:
    return " ".join(_NUMBER.sub("#", line).split())
