"""gpt-oss: messages of three channels. The analysis is reasoning, and a message to a function is a call.

`<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{...}<|call|>`

Pure.
"""

import re
from dataclasses import dataclass
from typing import Final

from splitlearn_client.parsing.calls import Calls
from splitlearn_client.parsing.events import Content, Reasoning
from splitlearn_client.parsing.form import CallGrammar, Write, literal
from splitlearn_client.parsing.source import Malformed, Source, Step

START: Final = "<|start|>"
CHANNEL: Final = "<|channel|>"
CONSTRAIN: Final = "<|constrain|>"
MESSAGE: Final = "<|message|>"
END: Final = "<|end|>"
_ENDS: Final = (END, "<|return|>", "<|call|>")
MARKERS: Final = (START, CHANNEL, CONSTRAIN, MESSAGE, *_ENDS)
ANALYSIS: Final = f"{CHANNEL}analysis{MESSAGE}"
# a name of ours, or another that the model makes up
_RECIPIENT = re.compile(r"to=(?:functions\.)?([^\s<]+)")


@dataclass(frozen=True)
class _Header:
    """What says where a message goes; `read` is how much of it came with the answer."""

    text: str
    read: str = ""


_NONE: Final = _Header("")


class Harmony:
    """All of an answer is in this form, so it is read from the beginning on."""

    openers: tuple[str, ...] = ()
    markers = MARKERS

    def read(self, source: Source, calls: Calls, opener: str) -> Step[None]:
        yield from ()

    def begin(self, source: Source, calls: Calls) -> Step[None]:
        yield from ()

    def grammar(self, write: Write) -> CallGrammar:
        def call(name: str, arguments: str) -> str:
            header = f"{write(CHANNEL)} {literal(f'commentary to=functions.{name} ')} {write(CONSTRAIN)}"
            return f"{header} {literal('json')} {write(MESSAGE)} {arguments}"

        # behind one comes an end token
        return CallGrammar(call, between=None)


def is_between(ending: str) -> bool:
    """Whether a prompt ends behind a complete message, and the answer's own begins with `START`."""
    return ending.rstrip().endswith(_ENDS)


def read_messages(source: Source, calls: Calls, ending: str) -> Step[None]:
    """Reads an answer behind a prompt that ends so."""
    is_within = START in ending and not is_between(ending)
    begun = ending.rpartition(START)[2].removeprefix("assistant") if is_within else ""
    # what the message says already is no part of its header
    header: _Header | None = _Header(begun.partition(MESSAGE)[0])
    if MESSAGE not in begun:
        first = begun or (yield from source.literal(CHANNEL, " to=", START))
        if first == " to=":
            source.back(len(first))
        header = (yield from _read_header(source, first)) if first else _NONE
    has_said = False
    while header is not None:
        marker: str | None = END
        if (recipient := _RECIPIENT.search(header.text)) is not None:
            yield from calls.attempt(source, calls.json_arguments(source, recipient[1]), header.read)
        elif header.text.startswith(f"{CHANNEL}analysis"):
            marker = yield from source.until((*_ENDS, START, CHANNEL), Reasoning, strips=True)
        else:
            if has_said:
                yield Content("\n")
            has_said = True
            marker = yield from source.until((*_ENDS, START, CHANNEL), Content)
        header = None if marker is None else (yield from _next_header(source, marker))


def _next_header(source: Source, marker: str) -> Step[_Header | None]:
    """The header of the next message, behind a marker that was read; None at the end."""
    while marker in _ENDS:
        yield from source.space()
        marker = yield from source.literal(*_ENDS, START, CHANNEL)
    if marker:
        return (yield from _read_header(source, CHANNEL if marker == CHANNEL else ""))
    return _NONE if source.rest else None


def _read_header(source: Source, begun: str) -> Step[_Header]:
    """The header that begins so, from here on up to its end; an empty one where none ends."""
    try:
        read, _ = yield from source.up_to(MESSAGE)
    except Malformed:
        return _NONE
    text = (begun + read).removeprefix(START).removeprefix("assistant")
    return _Header(text, read + MESSAGE)
