"""How calls of tools are told, and what becomes of what only looks like one.

A call begins once its name is read and is that of a tool, and its arguments are told as they come. What breaks off
before is content, with its markers. Where all of the output is read at once, so is what breaks off later; in a stream,
where the call has begun already, it is content from there on.

Pure.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from splitlearn_client.parsing.events import Arguments, CallBegun, Content, Event
from splitlearn_client.parsing.source import CutOff, Malformed, Source, Step

_ARGUMENTS: Final = ("arguments", "parameters")
# what families write beside the name and the arguments
_OTHERS: Final = ("id", "type")


class Calls:
    """The calls of one answer.

    Args:
        tools: the parameters' schema of each tool, by name.
        new_identity: makes the id of a call.
        holds: whether a call is told when it is complete.
    """

    def __init__(self, tools: Mapping[str, Any], new_identity: Callable[[], str], *, holds: bool) -> None:
        self.tools = tools
        self._new_identity = new_identity
        self._holds = holds
        self._index = -1
        self._is_begun = self._is_complete = False

    def attempt(self, source: Source, reading: Step[None], marker: str = "") -> Step[bool]:
        """Reads a call behind a marker that was read already. Whether there was one.

        Args:
            reading: calls `begin`, `arguments` and `complete`, and raises Malformed.
        """
        source.mark(len(marker))
        self._is_begun = self._is_complete = False
        held, is_whole = list[Event](), False
        try:
            for step in reading:
                if step is None or not self._holds:
                    yield step
                else:
                    held.append(step)
            is_whole, rest = True, ""
        except Malformed as error:
            if was_cut_off := isinstance(error, CutOff):
                source.take_rest()
            stays = self._is_begun and (not self._holds or (was_cut_off and source.is_cut_off))
            if self._is_complete:
                # only what closes the call is missing
                rest = "" if was_cut_off else source.unsent
            elif stays:
                rest = source.unsent
            else:
                rest, held = source.raw, []
                self._index -= self._is_begun
        yield from held
        source.unmark()
        if rest:
            yield Content(rest)
        return is_whole

    def begin(self, source: Source, name: str) -> Event:
        """A call of that tool begins. Raises Malformed if there is no such tool."""
        if name not in self.tools:
            raise Malformed
        self._index += 1
        self._is_begun = True
        source.sent()
        return CallBegun(self._index, self._new_identity(), name)

    def arguments(self, text: str) -> Event:
        """A piece of the call's arguments."""
        return Arguments(self._index, text)

    def told(self, source: Source, text: str) -> Event:
        """As `arguments`, for a piece that stands for what was read so far."""
        source.sent()
        return self.arguments(text)

    def complete(self, source: Source) -> None:
        """The arguments are complete."""
        source.sent()
        self._is_complete = True

    def json_arguments(self, source: Source, name: str) -> Step[None]:
        """Reads the arguments of a call whose name is read: an object."""
        yield from source.space()
        if not source.rest.startswith("{"):
            raise Malformed if source.rest else CutOff
        yield self.begin(source, name)
        yield from source.json(self.arguments)
        self.complete(source)

    def envelope(self, source: Source, *, needs_arguments: bool = False) -> Step[None]:
        """Reads an object with the name and the arguments of a call, in any order."""
        yield from source.space()
        yield from source.expect("{")
        name, arguments, is_told, seen = None, None, False, set[str]()
        while True:
            yield from source.space()
            key = _text((yield from _string(source)))
            if key in seen or key not in ("name", *_ARGUMENTS, *_OTHERS):
                raise Malformed
            seen.update(_ARGUMENTS if key in _ARGUMENTS else (key,))
            yield from source.space()
            yield from source.expect(":")
            yield from source.space()
            if key == "name":
                name = _text((yield from _string(source)))
                if name not in self.tools:
                    raise Malformed
            elif key in _ARGUMENTS and name is not None and source.rest.startswith("{"):
                yield from self.json_arguments(source, name)
                is_told = True
            elif key in _ARGUMENTS:
                arguments = yield from source.json()
            else:
                yield from source.json()
            yield from source.space()
            if (yield from source.expect(",", "}")) == "}":
                break
        if name is None or (needs_arguments and not is_told and arguments is None):
            raise Malformed
        if not is_told:
            whole = "{}" if arguments is None else _object(arguments)
            yield self.begin(source, name)
            yield self.arguments(whole)
            self.complete(source)
        source.sent()


def _string(source: Source) -> Step[str]:
    if not source.rest.startswith('"'):
        raise Malformed if source.rest else CutOff
    return (yield from source.json())


def _text(string: str) -> str:
    return str(json.loads(string))


def _object(text: str) -> str:
    """The object, which models also write into a string. Raises Malformed."""
    value = json.loads(text)
    if isinstance(value, str):
        try:
            text, value = value, json.loads(value)
        except ValueError as error:
            raise Malformed from error
    if not isinstance(value, dict):
        raise Malformed
    return text
