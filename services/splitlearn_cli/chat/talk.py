"""The conversation itself: lines come in, commands are run, questions are asked, answers are shown."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from splitlearn_cli.chat.commands import Chat, run_command
from splitlearn_cli.chat.conversation import Message
from splitlearn_cli.completion import Cost, Reasoning, stream
from splitlearn_cli.errors import CliError, ServiceRefused
from splitlearn_cli.terminal import Aside, note, printable

Screen = Callable[[], AbstractContextManager[Callable[[str], None]]]

_WHAT_HELPS = {
    "context_length_exceeded": "/new begins a new conversation, /undo takes back a turn",
    "no_chat_template": "splitlearn generate --raw continues a text without one",
}


@dataclass(frozen=True)
class Service:
    """The client service, and how patient to be with it; in seconds, as `completion.stream` takes them."""

    url: str
    timeout: float
    api_key: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class _Turn:
    """A question behind its conversation."""

    messages: list[Message]
    sampling: dict[str, Any]
    api_key: str | None
    path: str = "/v1/chat/completions"

    def body(self, model: str) -> dict[str, Any]:
        messages = [message.model_dump() for message in self.messages]
        return {"model": model, "messages": messages, **self.sampling, "stream": True}


def talk(lines: Iterable[str], chat: Chat, service: Service, screen: Screen, *, goes_on: bool) -> None:
    """Answers each line, until there is none or a command ends it.

    Args:
        lines: questions, and commands with a slash; one that only looks like a command begins with a space.
        screen: shows one answer.
        goes_on: whether an error is shown and the next line is read; otherwise it is raised.

    Raises:
        CliError: a question or a command failed.
    """
    for line in lines:
        try:
            if _ends(line, chat, service, screen):
                return
        except CliError as error:
            if not goes_on:
                raise
            note(f"error: {printable(str(error))}")


def _ends(line: str, chat: Chat, service: Service, screen: Screen) -> bool:
    if not line.startswith("/"):
        _answer(line.strip(), chat, service, screen)
        return False
    effect = run_command(chat, line)
    if effect.shown:
        note(printable(effect.shown))
    if effect.ask is not None:
        _answer(effect.ask, chat, service, screen)
    return effect.ends


@contextmanager
def _thoughts() -> Iterator[Callable[[str], None]]:
    """Reasoning, on stderr."""
    aside = Aside()
    try:
        yield aside.add
    finally:
        aside.end()


class _Showing(ExitStack):
    """Shows texts on screens in turns: beside an open one nothing else may be drawn."""

    def __init__(self) -> None:
        super().__init__()
        self._open: Screen | None = None
        self._show: Callable[[str], None]

    def show(self, screen: Screen, text: str) -> None:
        if self._open is not screen:
            self.close()
            self._show = self.enter_context(screen())
            self._open = screen
        self._show(text)


def _answer(text: str, chat: Chat, service: Service, screen: Screen) -> None:
    turn = _Turn(chat.conversation.asking(text), dict(chat.sampling.fields()), service.api_key)
    said, cost = "", ""
    try:
        with closing(stream(service.url, turn, timeout=service.timeout)) as parts, _Showing() as showing:
            for part in parts:
                if isinstance(part, Cost):
                    cost = str(part)
                elif isinstance(part, Reasoning):
                    showing.show(_thoughts, part.text)
                else:
                    said += part
                    showing.show(screen, part)
    except KeyboardInterrupt:
        # closing the stream has stopped the answer; what came of it belongs to the conversation
        cost = "stopped"
    except ServiceRefused as error:
        if helps := _WHAT_HELPS.get(error.code):
            raise ServiceRefused(f"{error}; {helps}", error.code) from error
        raise
    chat.conversation.answered(said)
    if cost:
        note(cost)
