import io
import sys
from pathlib import Path

import pytest
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from splitlearn_cli.chat.lines import from_pipe, from_terminal, history_file
from splitlearn_cli.errors import BadUsage

CTRL_C, CTRL_D, ALT_ENTER, UP = "\x03", "\x04", "\x1b\r", "\x1b[A"


def entered(keys: str, history: Path | None = None) -> list[str]:
    with create_pipe_input() as pipe:
        pipe.send_text(keys + CTRL_D)
        return list(from_terminal(["/help", "/save"], history, input=pipe, output=DummyOutput()))


def test_enter_sends_and_alt_enter_begins_another_line() -> None:
    assert entered(f"one\rtwo{ALT_ENTER}lines\r") == ["one", "two\nlines"]


def test_nothing_is_sent_for_an_empty_line_or_one_that_was_given_up() -> None:
    assert entered(f"\r  \rnot this{CTRL_C}this\r") == ["this"]


def test_earlier_lines_come_back_in_the_next_conversation_and_only_their_owner_can_read_them(tmp_path: Path) -> None:
    history = tmp_path / "state" / "history"
    assert entered("a secret\r", history) == ["a secret"]
    assert entered(f"{UP}?\r", history) == ["a secret?"]
    assert history.stat().st_mode & 0o777 == 0o600


def test_without_history_none_come_back() -> None:
    entered("a secret\r")
    assert entered(f"{UP}?\r") == ["?"]


def test_a_file_that_cannot_be_written_is_named_with_the_flag_that_helps(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadUsage, match=r"cannot keep lines in .*file/history: .*--no-history"):
        entered("one\r", tmp_path / "file" / "history")


def test_lines_are_kept_in_the_folder_for_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert history_file() == Path("/home/somebody/.local/state/splitlearn/chat_history")
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert history_file() == Path("/state/splitlearn/chat_history")


def test_each_line_of_a_pipe_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\n\n  \ntwo"))
    assert list(from_pipe()) == ["one", "two"]
