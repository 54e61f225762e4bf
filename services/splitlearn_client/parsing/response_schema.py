"""Takes an answer apart by a tokenizer's `response_schema`: a JSON schema that says by regular expressions where each
part of a message is. Transformers 5.0 read it; `response_template` has taken its place.

Pure.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import regex

_KINDS: Final = ("object", "array", "string", "integer", "number", "boolean", None)
_EXPRESSIONS: Final = ("x-regex", "x-regex-iterator", "x-regex-key-value")
_KEYWORDS: Final = frozenset({*_EXPRESSIONS, "x-parser", "x-parser-args", "x-mapping", "x-mapping-regex"})
_FORMS: Final = {
    "properties": dict,
    "prefixItems": list,
    "x-parser-args": dict,
    "x-mapping": dict,
    "x-mapping-regex": dict,
}
_WORDS: Final = {"true": True, "1": True, "false": False, "0": False}
_MOST_DEPTH: Final = 32


class SchemaMismatch(Exception):
    """The answer is not what the schema describes."""


class ResponseSchema:
    """A schema that can be read. Its expressions are untrusted and not bounded here.

    Raises:
        ValueError: the schema uses what is not read here, or an expression is wrong.
    """

    def __init__(self, schema: Any) -> None:
        _check(schema, 0)
        self._schema = schema

    def read(self, text: str) -> Any:
        """What the schema finds in an answer. Raises SchemaMismatch."""
        try:
            return _value(text, self._schema)
        except (ValueError, TypeError, KeyError, regex.error) as error:
            raise SchemaMismatch(str(error)) from error


def _check(schema: Any, depth: int) -> None:
    if not isinstance(schema, Mapping) or depth > _MOST_DEPTH:
        raise ValueError(f"it is not a schema of at most {_MOST_DEPTH} levels")
    for keyword, form in _FORMS.items():
        if not isinstance(schema.get(keyword, form()), form):
            raise ValueError(f"{keyword} is not in its form")
    if schema.get("type") not in _KINDS:
        raise ValueError(f"the type {schema['type']!r} is not read")
    if unknown := {key for key in schema if key.startswith("x-")} - _KEYWORDS:
        raise ValueError(f"{min(unknown)} is not read")
    if schema.get("x-parser", "json") != "json" or "transform" in schema.get("x-parser-args", {}):
        raise ValueError("x-parser reads JSON alone, without a transform")
    for expression in (*filter(None, map(schema.get, _EXPRESSIONS)), *schema.get("x-mapping-regex", ())):
        _compiled(expression)
    inner = [*schema.get("properties", {}).values(), *schema.get("prefixItems", ())]
    for each in (*inner, *filter(None, map(schema.get, ("items", "additionalProperties")))):
        _check(each, depth + 1)


def _compiled(expression: Any) -> Any:
    try:
        return regex.compile(expression, flags=regex.DOTALL)
    except (regex.error, TypeError) as error:
        raise ValueError(f"an expression cannot be read: {error}") from error


def _value(content: Any, schema: Mapping[str, Any]) -> Any:
    """What a part of the answer holds; None if it holds nothing."""
    if "const" in schema:
        return schema["const"]
    found = _mapped(_parsed(_found(content, schema), schema), schema)
    if found is None:
        return None
    match schema.get("type"):
        case "object":
            return _object(found, schema)
        case "array":
            return _array(found, schema)
        case None:
            return found
        case kind:
            return _plain(_text(found), kind)


def _text(content: Any) -> str:
    if not isinstance(content, str):
        raise TypeError(f"a text is expected, not {type(content).__name__}")
    return content


def _found(content: Any, schema: Mapping[str, Any]) -> Any:
    """What the expressions find, one after the other."""
    if content is not None and "x-regex" in schema:
        match = next(_matches(schema["x-regex"], content), None)
        content = None if match is None else _groups(match)
    if content is not None and "x-regex-iterator" in schema:
        content = list(map(_groups, _matches(schema["x-regex-iterator"], content))) or None
    if content is not None and "x-regex-key-value" in schema:
        pairs = [match.groupdict() for match in _matches(schema["x-regex-key-value"], content)]
        content = {pair["key"]: pair["value"] for pair in pairs} or None
    return content


def _matches(expression: str, content: Any) -> Iterator[Any]:
    return iter(_compiled(expression).finditer(_text(content)))


def _groups(match: Any) -> Any:
    """The texts of named groups, or that of the one group."""
    if named := match.groupdict():
        return {name: text for name, text in named.items() if text is not None}
    (text,) = match.groups()
    return text


def _parsed(content: Any, schema: Mapping[str, Any]) -> Any:
    if content is None or "x-parser" not in schema:
        return content
    try:
        return json.loads(_text(content))
    except json.JSONDecodeError:
        if schema.get("x-parser-args", {}).get("allow_non_json"):
            return content
        raise


def _mapped(content: Any, schema: Mapping[str, Any]) -> Any:
    if content is not None and "x-mapping" in schema:
        content = schema["x-mapping"].get(_text(content), content)
    for expression, replacement in schema.get("x-mapping-regex", {}).items() if content is not None else ():
        content = _compiled(expression).sub(replacement, _text(content))
    return content


def _object(found: Any, schema: Mapping[str, Any]) -> dict[str, Any]:
    properties = schema.get("properties", {})
    if isinstance(found, str):
        # each property has an expression of its own
        read = {name: _value(found, inner) for name, inner in properties.items()}
        return {name: value for name, value in read.items() if value is not None}
    if not isinstance(found, Mapping):
        raise TypeError(f"an object is expected, not {type(found).__name__}")
    read = {}
    for name, inner in properties.items():
        if name in found or "const" in inner:
            read[name] = _value(found.get(name), inner)
        elif "default" in inner:
            read[name] = inner["default"]
    if "additionalProperties" in schema:
        others = schema["additionalProperties"] or {}
        read |= {name: _value(value, others) for name, value in found.items() if name not in properties}
    return read


def _array(found: Any, schema: Mapping[str, Any]) -> list[Any]:
    items, first = schema.get("items") or {}, schema.get("prefixItems")
    if first is None:
        if not isinstance(found, list):
            raise TypeError(f"an array is expected, not {type(found).__name__}")
        return [_value(each, items) for each in found]
    found = found if isinstance(found, list) else [found]
    return [_value(each, inner) for each, inner in zip(found, first, strict=True)]


def _plain(text: str, kind: str) -> Any:
    match kind:
        case "integer":
            return int(text)
        case "number":
            return float(text)
        case "boolean":
            return _WORDS[text.lower()]
    return text
