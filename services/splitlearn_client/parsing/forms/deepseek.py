"""DeepSeek: calls between markers, as `name<sep>{...}`, or as `function<sep>name` and a block of JSON (V3, R1).

Pure.
"""

from typing import Final

from splitlearn_client.parsing.calls import Calls
from splitlearn_client.parsing.form import CallGrammar, MarkedForm, Write, literal
from splitlearn_client.parsing.source import Source, Step

_OPEN: Final = "<｜tool▁calls▁begin｜>"
_CLOSE: Final = "<｜tool▁calls▁end｜>"
_CALL: Final = "<｜tool▁call▁begin｜>"
_END: Final = "<｜tool▁call▁end｜>"
_BETWEEN: Final = "<｜tool▁sep｜>"
_BLOCK, _BLOCK_END = "\n```json\n", "\n```"


class DeepSeek(MarkedForm):
    """Both are read; `in_blocks` says which one is written."""

    openers = (_OPEN,)
    markers = (_OPEN, _CLOSE, _CALL, _END, _BETWEEN)

    def __init__(self, *, in_blocks: bool) -> None:
        self._in_blocks = in_blocks

    def read(self, source: Source, calls: Calls, opener: str) -> Step[None]:
        is_call = yield from calls.attempt(source, self._call(source, calls), opener)
        while is_call:
            yield from source.space()
            marker = yield from source.literal(_CLOSE, _CALL)
            if marker != _CALL:
                return
            source.back(len(_CALL))
            is_call = yield from calls.attempt(source, self._call(source, calls))

    def _call(self, source: Source, calls: Calls) -> Step[None]:
        yield from source.space()
        yield from source.expect(_CALL)
        name, _ = yield from source.up_to(_BETWEEN)
        if name.strip() == "function":
            name, _ = yield from source.up_to("```json\n", "```json ")
            yield from calls.json_arguments(source, name.strip())
            yield from source.space()
            yield from source.expect("```")
        else:
            yield from calls.json_arguments(source, name.strip())
        yield from source.space()
        yield from source.expect(_END)

    def grammar(self, write: Write) -> CallGrammar:
        def call(name: str, arguments: str) -> str:
            if not self._in_blocks:
                return f"{write(_CALL)} {literal(name)} {write(_BETWEEN)} {arguments} {write(_END)}"
            kind, block = literal("function"), literal(name + _BLOCK)
            return f"{write(_CALL)} {kind} {write(_BETWEEN)} {block} {arguments} {literal(_BLOCK_END)} {write(_END)}"

        return CallGrammar(call, write(_OPEN), literal("\n") if self._in_blocks else "", write(_CLOSE))
