import io
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress

import pytest

from splitlearn_cli.chat.screen import markdown, plain


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_terminal(
    screen: Callable[[], AbstractContextManager[Callable[[str], None]]], pieces: list[str], patch: pytest.MonkeyPatch
) -> str:
    terminal = Terminal()
    patch.setattr(sys, "stdout", terminal)
    # colours of the machine that runs the test are none of its business
    patch.setenv("NO_COLOR", "1")
    patch.setenv("TERM", "dumb")
    with screen() as show:
        for piece in pieces:
            show(piece)
    return terminal.getvalue()


def test_text_that_goes_into_a_pipe_is_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    with plain() as show:
        show("a\x1b[31m")
        show("\tb\n")
    assert capsys.readouterr().out == "a\x1b[31m\tb\n\n"


@pytest.mark.parametrize("screen", [plain, markdown])
def test_a_model_cannot_command_the_terminal(
    screen: Callable[[], AbstractContextManager[Callable[[str], None]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = ["a\x1b]0;title\x07b", "\x9b2Jc\r\x08", "[d](javascript:alert)\n\n", "[e](http://elsewhere)"]
    out = on_terminal(screen, hostile, monkeypatch)
    assert not set(out) & set("\x1b\x07\x08\r\x9b")


def test_markdown_is_rendered_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    out = on_terminal(
        markdown, ["# Tit", "le\n\nsome **bo", "ld** text\n\n```\na  = 1", "\n```\nthe `end`"], monkeypatch
    )
    lines = [line.strip() for line in out.splitlines() if line.strip()]
    assert lines[-2:] == ["a  = 1", "the end"]
    assert "some bold text" in lines
    assert out.count("some bold text") == 1


def test_an_answer_that_is_stopped_stays_as_far_as_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "dumb")
    with suppress(KeyboardInterrupt), markdown() as show:
        show("one\n\ntwo")
        raise KeyboardInterrupt
    assert terminal.getvalue().split()[-2:] == ["one", "two"]
