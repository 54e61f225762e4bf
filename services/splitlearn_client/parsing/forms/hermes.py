"""Hermes and Qwen: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, and tags in it of Qwen3-Coder and GLM.

Pure.
"""

import json
from dataclasses import dataclass
from typing import Any, Final

from splitlearn_client.parsing.calls import Calls
from splitlearn_client.parsing.form import CallGrammar, MarkedForm, Write, envelope, literal
from splitlearn_client.parsing.source import LONGEST_NAME, Malformed, Source, Step

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"


@dataclass(frozen=True)
class Tags:
    """What is around the arguments of a call.

    Attributes:
        key: before each name.
        behind_key: behind it.
        value: before each value, if anything is.
        behind_value: behind it.
        around: what is added at both ends of a value.
        end: behind all.
    """

    key: str
    behind_key: str
    value: str
    behind_value: str
    around: str
    end: str


_CODER: Final = Tags("<parameter=", ">", "", "</parameter>", "\n", "</function>")
_GLM: Final = Tags("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>", "", _CLOSE)


class Hermes(MarkedForm):
    """One call in each pair of markers. A grammar writes them as objects, which are also read where tags are usual."""

    openers = (_OPEN,)
    markers = (_OPEN, _CLOSE)

    def read(self, source: Source, calls: Calls, opener: str) -> Step[None]:
        yield from calls.attempt(source, self._call(source, calls), opener)

    def _call(self, source: Source, calls: Calls) -> Step[None]:
        yield from source.space()
        if (yield from source.literal("<function=")):
            # `<function=NAME> <parameter=KEY> VALUE </parameter> ... </function>`
            name, _ = yield from source.up_to(">")
            yield from _tagged(source, calls, name, _CODER)
        elif source.rest.startswith("{"):
            yield from calls.envelope(source)
        else:
            # `NAME <arg_key>KEY</arg_key> <arg_value>VALUE</arg_value> ...`
            name, marker = yield from source.up_to(_GLM.key, _GLM.end)
            source.back(len(marker))
            yield from _tagged(source, calls, name.rstrip(), _GLM)
            source.back(len(_GLM.end))
        yield from source.space()
        yield from source.expect(_CLOSE)

    def grammar(self, write: Write) -> CallGrammar:
        line = literal("\n")

        def call(name: str, arguments: str) -> str:
            return " ".join((write(_OPEN), line, envelope(name, arguments), line, write(_CLOSE)))

        return CallGrammar(call)


def _tagged(source: Source, calls: Calls, name: str, tags: Tags) -> Step[None]:
    """The arguments of a call whose name is read."""
    yield calls.begin(source, name)
    properties = _properties(calls.tools[name])
    before, keys = "{", set[str]()
    while True:
        yield from source.space()
        if (yield from source.expect(tags.key, tags.end)) == tags.end:
            break
        key, _ = yield from source.up_to(tags.behind_key, longest=LONGEST_NAME)
        if key in keys:
            raise Malformed
        keys.add(key)
        if tags.value:
            yield from source.space()
            yield from source.expect(tags.value)
        value, _ = yield from source.up_to(tags.behind_value, longest=None)
        value = value.removeprefix(tags.around).removesuffix(tags.around)
        yield calls.told(source, f"{before}{json.dumps(key)}: {_written(value, properties.get(key))}")
        before = ", "
    yield calls.told(source, "}" if keys else "{}")
    calls.complete(source)


def _properties(schema: Any) -> dict[str, Any]:
    properties = schema.get("properties") if isinstance(schema, dict) else None
    return properties if isinstance(properties, dict) else {}


def _written(value: str, schema: Any) -> str:
    """A tag's text as JSON: as it is if its schema says that it is no text."""
    kinds = schema.get("type") if isinstance(schema, dict) else None
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if "string" not in kinds:
        try:
            return json.dumps(json.loads(value), ensure_ascii=False, allow_nan=False)
        except ValueError:
            # Python's words for them
            words = {"True": "true", "False": "false", "None": "null"}
            if value in words:
                return words[value]
    return json.dumps(value, ensure_ascii=False)
