"""Gemma: `<|tool_call>call:name{key:<|"|>text<|"|>,count:5}<tool_call|>`, and FunctionGemma's markers for the same.

Pure.
"""

import json
from dataclasses import dataclass

from splitlearn_client.parsing.calls import Calls
from splitlearn_client.parsing.form import CallGrammar, MarkedForm, Write, literal
from splitlearn_client.parsing.source import Malformed, Source, Step

_DEEPEST = 50


@dataclass(frozen=True)
class Gemma(MarkedForm):
    """Keys and numbers are bare, and texts are between quotes of its own. A grammar writes JSON, which is read too."""

    opening: str
    closing: str
    quote: str

    @property
    def openers(self) -> tuple[str, ...]:
        return (self.opening,)

    @property
    def markers(self) -> tuple[str, ...]:
        return (self.opening, self.closing, self.quote)

    def read(self, source: Source, calls: Calls, opener: str) -> Step[None]:
        yield from calls.attempt(source, self._call(source, calls), opener)

    def _call(self, source: Source, calls: Calls) -> Step[None]:
        yield from source.space()
        yield from source.expect("call:")
        name, _ = yield from source.up_to("{")
        yield calls.begin(source, name.strip())
        yield calls.told(source, "{")
        yield from self._members(source, calls, "}", 0)
        calls.complete(source)
        yield from source.space()
        yield from source.expect(self.closing)

    def _members(self, source: Source, calls: Calls, end: str, depth: int) -> Step[None]:
        """What is in an object or a list, and its end."""
        if depth > _DEEPEST:
            raise Malformed
        before, keys = "", set[str]()
        yield from source.space()
        is_over = bool((yield from source.literal(end)))
        while not is_over:
            if end == "}":
                key = yield from self._key(source)
                if key in keys:
                    raise Malformed
                keys.add(key)
                before += f"{json.dumps(key, ensure_ascii=False)}: "
            yield from self._value(source, calls, before, depth)
            yield from source.space()
            is_over = (yield from source.expect(",", end)) == end
            before = ", "
        yield calls.told(source, end)

    def _key(self, source: Source) -> Step[str]:
        yield from source.space()
        if source.rest.startswith('"'):
            key = str(json.loads((yield from source.json())))
            yield from source.space()
            yield from source.expect(":")
        elif (yield from source.literal(self.quote)):
            key, _ = yield from source.up_to(self.quote)
            yield from source.expect(":")
        else:
            key, _ = yield from source.up_to(":")
        return key.strip()

    def _value(self, source: Source, calls: Calls, before: str, depth: int) -> Step[None]:
        yield from source.space()
        opened = yield from source.literal(self.quote, "{", "[")
        if opened == self.quote:
            text, _ = yield from source.up_to(self.quote, longest=None)
            yield calls.told(source, before + json.dumps(text, ensure_ascii=False))
        elif opened:
            yield calls.told(source, before + opened)
            yield from self._members(source, calls, "}" if opened == "{" else "]", depth + 1)
        else:
            # a number, a word, or a text between JSON's quotes
            value = yield from source.json()
            yield calls.told(source, before + value)

    def grammar(self, write: Write) -> CallGrammar:
        return CallGrammar(
            lambda name, arguments: (
                f"{write(self.opening)} {literal(f'call:{name}')} {arguments} {write(self.closing)}"
            ),
            between="",
        )


FORMS = {
    "<|tool_call>": Gemma("<|tool_call>", "<tool_call|>", '<|"|>'),
    "<start_function_call>": Gemma("<start_function_call>", "<end_function_call>", "<escape>"),
}
"""By what a template must have in it."""
