"""Llama 3: `{"name": ..., "parameters": {...}}`, alone or behind `<|python_tag|>`; several with `;` between them.

Pure.
"""

from splitlearn_client.parsing.calls import Calls
from splitlearn_client.parsing.form import CallGrammar, Write, envelope, literal
from splitlearn_client.parsing.source import Source, Step

_TAG = "<|python_tag|>"


class Llama3:
    """Without the marker, a call is the whole answer."""

    openers = (_TAG,)
    markers = (_TAG,)

    def read(self, source: Source, calls: Calls, opener: str) -> Step[None]:
        yield from self._read(source, calls, opener)

    def begin(self, source: Source, calls: Calls) -> Step[None]:
        yield from self._read(source, calls, "")

    def _read(self, source: Source, calls: Calls, opener: str) -> Step[None]:
        call = calls.envelope(source, needs_arguments=True)
        is_call = yield from calls.attempt(source, call, opener)
        while is_call:
            yield from source.space()
            if not source.rest.startswith(";"):
                return
            is_call = yield from calls.attempt(source, self._next(source, calls))

    def _next(self, source: Source, calls: Calls) -> Step[None]:
        yield from source.expect(";")
        yield from calls.envelope(source, needs_arguments=True)

    def grammar(self, write: Write) -> CallGrammar:
        return CallGrammar(lambda name, arguments: envelope(name, arguments, "parameters"), between=literal("; "))
