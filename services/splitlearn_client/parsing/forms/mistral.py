"""Mistral: `[TOOL_CALLS][{"name": ..., "arguments": {...}}, ...]`, and `[TOOL_CALLS]name[ARGS]{...}` of newer models.

Pure.
"""

from splitlearn_client.parsing.calls import Calls
from splitlearn_client.parsing.form import CallGrammar, MarkedForm, Write, envelope, literal
from splitlearn_client.parsing.source import Source, Step

_OPEN, _ARGUMENTS, _IDENTITY = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"


class Mistral(MarkedForm):
    """Both are read; `is_named` says which one is written."""

    openers = (_OPEN,)
    markers = (_OPEN, _ARGUMENTS, _IDENTITY)

    def __init__(self, *, is_named: bool) -> None:
        self._is_named = is_named

    def read(self, source: Source, calls: Calls, opener: str) -> Step[None]:
        is_list = is_last = False

        def call() -> Step[None]:
            nonlocal is_list, is_last
            yield from source.space()
            if not is_list:
                is_list = bool((yield from source.literal("[")))
            if not is_list:
                is_last = True
                yield from self._named(source, calls)
                return
            yield from calls.envelope(source)
            yield from source.space()
            is_last = (yield from source.expect(",", "]")) == "]"

        is_call = yield from calls.attempt(source, call(), opener)
        while is_call and not is_last:
            is_call = yield from calls.attempt(source, call())

    def _named(self, source: Source, calls: Calls) -> Step[None]:
        name, behind = yield from source.up_to(_ARGUMENTS, _IDENTITY, "{")
        if behind == _IDENTITY:
            yield from source.up_to(_ARGUMENTS)
        elif behind == "{":
            source.back(1)
        yield from calls.json_arguments(source, name.strip())

    def grammar(self, write: Write) -> CallGrammar:
        if self._is_named:
            return CallGrammar(
                lambda name, arguments: f"{write(_OPEN)} {literal(name)} {write(_ARGUMENTS)} {arguments}", between=""
            )
        return CallGrammar(envelope, f"{write(_OPEN)} {literal('[')}", literal(", "), literal("]"))
