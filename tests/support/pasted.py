"""Documents as readers use them: their blocks pasted one after the other, commands into one shell, Python into one
interpreter.

A block that is not pasted says so in the document itself, right above the fence: `<!-- not pasted: REASON -->`.
Commands and Python in any other form (indented, without a language, with prompts) are found by `unpasteable`.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self
from uuid import uuid4

from support.running_split import free_port

ROOT: Final = Path(__file__).parents[2]
STAND_INS: Final = Path(__file__).parent / "stand_in_commands"

_MARK = re.compile(r"<!-- not pasted: (?P<reason>[^>]*?\S)\s*-->\n\n?\Z")
_FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# a paragraph would go on in such lines
_INDENTED = re.compile(r"^(?:#.*|.*-->|)\n((?: {4}.*\n)+)", re.MULTILINE)
_COMMAND = re.compile(
    r"^ *(?:[$>] )?(?:[A-Z_]+=\S+ +)*(?:cleangpt|cp|curl|docker|export|git|grpcurl|kill|make|pip|python3?|rm|splitlearn"
    r"|torchrun|wait)\b(?! *=)",
    re.MULTILINE,
)
_PYTHON = re.compile(r"^ *(?:>>> |from [\w.]+ import |import \w)", re.MULTILINE)
_NUMBER = re.compile(r"\d[\d,.]*\d|\d")


@dataclass(frozen=True)
class Block:
    """One fenced block. `reason` says why it is not pasted; empty if it is."""

    language: str
    text: str
    reason: str


def blocks(document: str) -> list[Block]:
    """All fenced blocks, in order."""
    found = []
    for fence in _FENCE.finditer(document):
        mark = _MARK.search(document, 0, fence.start())
        found.append(Block(fence[1].strip(), fence[2], mark["reason"] if mark else ""))
    return found


def pasted_blocks(document: str) -> list[Block]:
    """The blocks of commands and Python, and what they print, but for those that are marked."""
    return [each for each in blocks(document) if each.language in ("bash", "python", "text") and not each.reason]


def unpasteable(document: str) -> list[str]:
    """First lines of blocks that hold commands or Python, are not marked, and that nobody would paste."""
    found = [
        each.text
        for each in blocks(document)
        if not each.reason and each.language not in ("bash", "python", "text") and _is_typed(each.text)
    ]
    outside = _FENCE.sub("", document)
    for match in _INDENTED.finditer(outside):
        if _is_typed(match[1]) and not _MARK.search(outside, 0, match.start(1)):
            found.append(match[1])
    return [text.strip().splitlines()[0] for text in found]


def _is_typed(text: str) -> bool:
    return bool(_COMMAND.search(text) or _PYTHON.search(text))


class _Session:
    """A process of its own that is given one block after the other; `errors` is what it printed on stderr."""

    def __init__(self, command: list[str], folder: Path, environment: Mapping[str, str], errors: Path) -> None:
        self._errors = errors
        with errors.open("a") as stderr:
            self.process: Final = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, **environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                # of its own, so that nothing it started outlives the test
                start_new_session=True,
            )

    def give(self, text: str, *, until: str, failed: str | None = None) -> str:
        """What was printed until the line `until`. Fails the test at a line `failed`, and if the process ends."""
        stdin, stdout = _open(self.process.stdin), _open(self.process.stdout)
        stdin.write(text)
        stdin.flush()
        printed: list[str] = []
        for line in stdout:
            before, end, _ = line.partition(until)
            if end:
                return "".join([*printed, before])
            printed.append(line)
            assert failed is None or failed not in line, f"{line}\n{self.said()[-4000:]}"
        raise AssertionError(f"{''.join(printed)}\nit has ended\n{self.said()[-4000:]}")

    def said(self) -> str:
        return self._errors.read_text(encoding="utf-8")


def _open(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


@dataclass
class Shell:
    """One bash in a folder, where `splitlearn` and `cleangpt` are the installed commands.

    Addresses with default ports stand for free ports. `errors` is what was printed on stderr, services' logs included;
    `more` goes into the environment. What sets the project up, `pip` and `make`, is not repeated: commands that stand
    in for both say whether what they were told exists. `hosts` are other addresses of pages, and what stands for them.
    """

    folder: Path
    errors: Path
    more: dict[str, str] = field(default_factory=dict)
    trunk: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")
    client: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")
    hosts: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """Ports that are free, and one thread: what the commands of the project take from their surroundings."""
        return {
            "PATH": f"{STAND_INS}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "SPLITLEARN_LOG_FORMAT": "json",
            "SPLITLEARN_TRUNK_PORT": self.trunk.rpartition(":")[2],
            "SPLITLEARN_TRUNK_METRICS_PORT": "0",
            "SPLITLEARN_CLIENT_PORT": self.client.rpartition(":")[2],
            "SPLITLEARN_CLIENT_TRUNK": self.trunk,
            "SPLITLEARN_UP_PORT": self.client.rpartition(":")[2],
            "SPLITLEARN_GENERATE_URL": f"http://{self.client}",
            "SPLITLEARN_GENERATE_WAIT": "300",
            "SPLITLEARN_BENCH_URL": f"http://{self.client}",
            "OMP_NUM_THREADS": "1",
            "NO_PROXY": "127.0.0.1",
            "HF_HUB_OFFLINE": "1",
            **self.more,
        }

    def here(self, text: str) -> str:
        port = self.trunk.rpartition(":")[2]
        text = text.replace("127.0.0.1:50051", self.trunk).replace("localhost:50051", f"localhost:{port}")
        for host, address in self.hosts.items():
            text = text.replace(host, address)
        return text.replace("127.0.0.1:8000", self.client)

    def paste(self, text: str) -> str:
        """Gives the block to the shell; what it printed on stdout. Fails the test if a command of it failed."""
        end, failed = f"end-of-block-{uuid4().hex}", f"failed-{uuid4().hex}"
        # a prompt tells of jobs that have ended, and so gives their numbers back; without one, `jobs` does
        told = "jobs >/dev/null"
        given = f"trap 'echo {failed} $? $BASH_COMMAND' ERR\n{self.here(text)}\ntrap - ERR\n{told}\necho {end}\n"
        return self._session.give(given, until=end, failed=failed)

    def said(self) -> str:
        return self._session.said()

    def __enter__(self) -> Self:
        # with job control, as at a prompt: jobs that have ended give their numbers back
        command = ["bash", "--noprofile", "--norc", "-m"]
        self._session = _Session(command, self.folder, self.environment, self.errors)
        return self

    def __exit__(self, *_: object) -> None:
        # whatever a block has left running
        self._session.process.communicate("kill $(jobs -p) 2>/dev/null; wait\n", timeout=60)


class Interpreter:
    """A Python in the folder of a shell, to which blocks are given as at its prompt: names stay from one to the next.

    A process of its own, so that what a page registers or patches is gone afterwards, and what it forgets to import is
    not there by chance.
    """

    _READING: Final = (
        "import json, sys\n"
        "names = {'__name__': '__main__'}\n"
        "for line in sys.stdin:\n"
        "    document, text, end = json.loads(line)\n"
        "    exec(compile(text, document, 'exec'), names)\n"
        "    print(end, flush=True)\n"
    )

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._session: _Session | None = None

    def paste(self, document: str, text: str) -> str:
        """What the block printed. Fails the test with the traceback if it raised."""
        if self._session is None:
            command = [sys.executable, "-c", self._READING]
            self._session = _Session(command, self._shell.folder, self._shell.environment, self._shell.errors)
        end = f"end-of-block-{uuid4().hex}"
        return self._session.give(json.dumps([document, self._shell.here(text), end]) + "\n", until=end)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._session is not None:
            self._session.process.communicate(timeout=60)
            assert error or self._session.process.returncode == 0, self._session.said()[-4000:]


def follow(document: Path, shell: Shell) -> int:
    """Pastes every block, compares what the document shows with what was printed; how many blocks there were."""
    shown = ""
    found = pasted_blocks(document.read_text(encoding="utf-8"))
    with Interpreter(shell) as interpreter:
        for block in found:
            if block.language == "text":
                compare(block.text, shown)
            elif block.language == "python":
                shown = interpreter.paste(document.name, block.text)
            else:
                shown = shell.paste(block.text)
    return len(found)


def compare(shown: str, found: str) -> None:
    """Every line of the document was printed, in this order, but for numbers and the width of columns."""
    lines = iter([_plain(line) for line in found.splitlines()])
    for line in shown.splitlines():
        assert _plain(line) in lines, f"the document shows\n{line}\nand what was printed is\n{found}"


def _plain(line: str) -> str:
    return " ".join(_NUMBER.sub("#", line).split())
