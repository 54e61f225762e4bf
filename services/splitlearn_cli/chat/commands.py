"""The commands of a conversation: lines that begin with a slash."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field, TypeAdapter, ValidationError

from splitlearn_cli.chat.conversation import Conversation, Sampling
from splitlearn_cli.errors import BadUsage


@dataclass
class Chat:
    """A conversation, and how its answers are drawn."""

    conversation: Conversation
    sampling: Sampling


@dataclass(frozen=True)
class Effect:
    """What a command leaves to do: a text to show, a question to ask, or the end."""

    shown: str = ""
    ask: str | None = None
    ends: bool = False


@dataclass(frozen=True)
class Command:
    """One command; `argument` names what may follow it in the help."""

    run: Callable[[Chat, str], Effect]
    help: str
    argument: str = ""


_VALUES: Final[dict[str, TypeAdapter[Any]]] = {
    "temperature": TypeAdapter(Annotated[float, Field(ge=0, allow_inf_nan=False)]),
    "top_p": TypeAdapter(Annotated[float, Field(ge=0, le=1)]),
    "max_tokens": TypeAdapter(Annotated[int, Field(ge=1)]),
    "seed": TypeAdapter(int),
}


def _help(_: Chat, __: str) -> Effect:
    words = {f"/{name} {command.argument}".rstrip(): command.help for name, command in COMMANDS.items()}
    width = max(map(len, words))
    return Effect("\n".join(f"{spelled:{width}}  {text}" for spelled, text in words.items()))


def _new(chat: Chat, _: str) -> Effect:
    chat.conversation.begin()
    return Effect("a new conversation")


def _system(chat: Chat, text: str) -> Effect:
    if text:
        chat.conversation.system = "" if text == "none" else text
    return Effect(f"system prompt: {chat.conversation.system or 'none'}")


def _retry(chat: Chat, _: str) -> Effect:
    text = chat.conversation.take_back()
    if text is None:
        raise BadUsage("nothing was asked yet")
    return Effect(ask=text)


def _undo(chat: Chat, _: str) -> Effect:
    text = chat.conversation.take_back()
    if text is None:
        raise BadUsage("nothing was asked yet")
    return Effect(f"taken back: {text}")


def _set(chat: Chat, text: str) -> Effect:
    name, _, value = text.replace("=", " ").partition(" ")
    if name in _VALUES:
        setattr(chat.sampling, name, _read(name, value.strip()))
    elif name:
        raise BadUsage(f"no {name!r} to set; there are {', '.join(_VALUES)}")
    values = vars(chat.sampling).items()
    return Effect(", ".join(f"{each} {'as the service has it' if value is None else value}" for each, value in values))


def _read(name: str, value: str) -> Any:
    if value in ("", "none"):
        return None
    try:
        return _VALUES[name].validate_python(value)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise BadUsage(f"{name}: {reason[0].lower()}{reason[1:]}, got {value!r}") from error


def _save(chat: Chat, name: str) -> Effect:
    path = _path(name)
    try:
        path.write_text(chat.conversation.as_json(), encoding="utf-8")
    except OSError as error:
        raise BadUsage(f"cannot write {path}: {error.strerror}") from error
    return Effect(f"saved in {path}")


def _load(chat: Chat, name: str) -> Effect:
    path = _path(name)
    try:
        chat.conversation = Conversation.from_json(path.read_bytes())
    except OSError as error:
        raise BadUsage(f"cannot read {path}: {error.strerror}") from error
    except BadUsage as error:
        raise BadUsage(f"cannot read {path}: {error}") from error
    return Effect(f"{len(chat.conversation.turns)} messages loaded")


def _path(name: str) -> Path:
    if not name:
        raise BadUsage("give a file")
    return Path(name).expanduser()


def _quit(_: Chat, __: str) -> Effect:
    return Effect(ends=True)


COMMANDS: Final = {
    "help": Command(_help, "these commands"),
    "new": Command(_new, "begin a new conversation; the system prompt stays"),
    "system": Command(_system, "show or set the system prompt; none removes it", "[TEXT]"),
    "retry": Command(_retry, "ask the last question again"),
    "undo": Command(_undo, "take back the last question and its answer"),
    "set": Command(_set, f"show or set {', '.join(_VALUES)}; none leaves it to the service", "[NAME VALUE]"),
    "save": Command(_save, "write the conversation to a file, as OpenAI's messages in JSON", "FILE"),
    "load": Command(_load, "go on with a conversation that was saved", "FILE"),
    "quit": Command(_quit, "end; Ctrl-D does too"),
}


def run_command(chat: Chat, line: str) -> Effect:
    """Runs a line that begins with a slash. Raises BadUsage: the command does not exist, or not with this argument."""
    name, _, argument = line[1:].partition(" ")
    command = COMMANDS.get(name)
    if command is None:
        raise BadUsage(f"no command /{name}; /help lists them. To send this line, begin it with a space")
    return command.run(chat, argument.strip())
