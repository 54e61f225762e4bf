"""`splitlearn chat` in a terminal of its own, with a real service."""

import asyncio
import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.running_split import PATIENCE, Split

# the last one may be incomplete so far
_CONTROLS = re.compile(rb"\x1b\[[0-9;?]*([a-zA-Z]|\Z)|\x1b\Z")
_WHERE = b"\x1b[6n"
CTRL_D = "\x04"


class Terminal:
    """Keys go in, text comes out. Blocking."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._raw = b""
        self._seen = 0

    def press(self, keys: str) -> None:
        os.write(self._descriptor, keys.encode())

    def until(self, text: str) -> str:
        """What was shown since the last call, up to this text, without control sequences."""
        while True:
            shown = _CONTROLS.sub(b"", self._raw).decode(errors="replace")
            if (found := shown.find(text, self._seen)) >= 0:
                begun, self._seen = self._seen, found + len(text)
                return shown[begun : self._seen]
            assert self._more(), f"it ended before {text!r}: {shown[self._seen :]!r}"

    def to_the_end(self) -> None:
        while self._more():
            pass

    def _more(self) -> bool:
        """Reads on; false at the end."""
        assert select.select([self._descriptor], [], [], PATIENCE)[0], f"nothing came after {self._raw!r}"
        try:
            piece = os.read(self._descriptor, 2**16)
        except OSError:
            # Linux's way to say that nobody has the other end open
            return False
        self._raw += piece
        if _WHERE in piece:
            # where the cursor is: a terminal answers that
            os.write(self._descriptor, b"\x1b[1;1R")
        return bool(piece)


@contextmanager
def chatting(url: str, folder: Path) -> Iterator[Terminal]:
    words = [sys.executable, "-m", "splitlearn_cli", "chat", "--url", url, "--max-tokens", "20", "--temperature", "0"]
    variables = {**os.environ, "TERM": "xterm", "XDG_STATE_HOME": str(folder), "COLUMNS": "500", "LINES": "50"}
    ours, its = pty.openpty()
    try:
        with subprocess.Popen(words, stdin=its, stdout=its, stderr=its, env=variables, start_new_session=True) as child:
            os.close(its)
            try:
                yield Terminal(ours)
                assert child.wait(PATIENCE) == 0
            finally:
                child.kill()
    finally:
        os.close(ours)


@pytest.fixture
def url(split: Split) -> str:
    return str(split.client.http.base_url)


def talk(url: str, folder: Path) -> None:
    with chatting(url, folder) as terminal:
        terminal.until("tiny at http")
        terminal.until(">")
        terminal.press("hello\r")
        terminal.until("20 tokens, ")
        terminal.until(">")
        terminal.press("/un\t")
        # a terminal is sent only what changes
        terminal.until("/un")
        terminal.until("do")
        terminal.press("\r")
        terminal.until("taken back: hello")
        terminal.until(">")
        terminal.press(CTRL_D)
        terminal.to_the_end()
    assert "hello" in (folder / "splitlearn" / "chat_history").read_text(encoding="utf-8")


async def test_a_conversation_with_editing_completion_and_history(url: str, tmp_path: Path) -> None:
    await asyncio.to_thread(talk, url, tmp_path)
