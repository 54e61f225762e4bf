"""Runs parsers over outputs, cut in any way, and joins what they tell."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from splitlearn_client.parsing.dialect import Dialect, Prefix
from splitlearn_client.parsing.events import Arguments, CallBegun, Content, Event, Reasoning

TOOLS: Mapping[str, Any] = {
    "f": {"type": "object", "properties": {"s": {"type": "string"}, "n": {"type": "integer"}}},
    "g": {"type": "object"},
}

NO_PREFIX = Prefix()


def joined(events: Iterable[Event]) -> list[Event]:
    """The events, with those made one that only go on with the one before."""
    told = list[Event]()
    for event in events:
        last = told[-1] if told else None
        if isinstance(event, Content | Reasoning) and type(last) is type(event):
            told[-1] = replace(event, text=last.text + event.text)  # type: ignore[union-attr]
        elif isinstance(event, Arguments) and isinstance(last, Arguments) and last.index == event.index:
            told[-1] = replace(event, text=last.text + event.text)
        else:
            told.append(event)
    return told


def taken_apart(
    dialect: Dialect,
    pieces: Sequence[str],
    *,
    prefix: Prefix = NO_PREFIX,
    holds: bool = False,
    is_cut_off: bool = False,
    tools: Mapping[str, Any] = TOOLS,
    is_formed: bool = False,
) -> list[Event]:
    """What the pieces of one answer are taken apart into."""
    numbers = count()
    reading = replace(dialect, new_identity=lambda: f"id{next(numbers)}").reading(tools, prefix, is_formed=is_formed)
    assert reading is not None
    parser = reading.make_parser(holds)
    events = [event for piece in pieces for event in parser.feed(piece)]
    return joined([*events, *parser.finish(is_cut_off=is_cut_off)])


def however_it_is_cut(dialect: Dialect, text: str, **options: Any) -> list[Event]:
    """What an answer is taken apart into, which is the same however it is cut: whole, in two, by characters."""
    whole = taken_apart(dialect, [text], **options)
    for place in range(len(text)):
        assert taken_apart(dialect, [text[:place], text[place:]], **options) == whole, (text[:place], text[place:])
    assert taken_apart(dialect, list(text), **options) == whole
    return whole


def said(events: Iterable[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Content))


def thought(events: Iterable[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Reasoning))


def called(events: Iterable[Event]) -> list[tuple[str, str]]:
    """The names and the arguments of all calls."""
    names: dict[int, tuple[str, str]] = {}
    for event in events:
        if isinstance(event, CallBegun):
            names[event.index] = (event.name, "")
        elif isinstance(event, Arguments):
            name, arguments = names[event.index]
            names[event.index] = (name, arguments + event.text)
    return list(names.values())
