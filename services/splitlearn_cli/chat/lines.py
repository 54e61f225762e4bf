"""Reads what the user writes: from a terminal with editing and history, or from a pipe line by line."""

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from splitlearn_cli.errors import BadUsage

_PROMPT = "\n> "
_OWNER_ONLY = 0o600


def from_pipe() -> Iterator[str]:
    """The lines of stdin that are not empty."""
    yield from (line.strip("\n") for line in sys.stdin if line.strip())


def from_terminal(commands: Sequence[str], history: Path | None, **streams: Any) -> Iterator[str]:
    """What the user enters until Ctrl-D. Enter sends, Alt-Enter begins another line, Ctrl-C clears.

    Args:
        commands: what the tab key completes at the beginning of a line.
        history: a file of earlier lines, which only its owner can read; None keeps none.
        streams: prompt_toolkit's input and output, for tests.

    Raises:
        BadUsage: the file of earlier lines cannot be written.
    """
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    session: PromptSession[str] = PromptSession(
        _PROMPT,
        multiline=True,
        prompt_continuation="  ",
        completer=WordCompleter(list(commands), sentence=True),
        complete_while_typing=False,
        key_bindings=_keys(),
        history=InMemoryHistory() if history is None else FileHistory(_owned(history)),
        **streams,
    )
    while True:
        try:
            text = session.prompt()
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
        if text.strip():
            yield text


def history_file() -> Path:
    """Where lines are kept: the folder for state of the XDG Base Directory Specification."""
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "splitlearn" / "chat_history"


def _owned(path: Path) -> str:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, _OWNER_ONLY))
    except OSError as error:
        raise BadUsage(f"cannot keep lines in {path}: {error.strerror}; give --no-history") from error
    return str(path)


def _keys() -> Any:
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()
    keys.add("enter")(lambda event: event.current_buffer.validate_and_handle())
    keys.add("escape", "enter")(lambda event: event.current_buffer.insert_text("\n"))
    return keys
