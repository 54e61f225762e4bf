"""A schema's document: where its references lead. None leads out of it.

Pure.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

MOST_NODES: Final = 20_000

# keywords whose values are schemas, lists of schemas, and objects of schemas
_ONE: Final = (
    "additionalProperties", "contains", "contentSchema", "else", "if", "items", "not", "propertyNames", "then",
    "unevaluatedItems", "unevaluatedProperties",
)  # fmt: skip
_LIST: Final = ("allOf", "anyOf", "oneOf", "prefixItems")
_OBJECT: Final = ("$defs", "definitions", "dependentSchemas", "patternProperties", "properties")
_DRAFTS: Final = frozenset(
    f"{scheme}://json-schema.org/{draft}/schema"
    for scheme in ("http", "https")
    for draft in ("draft/2020-12", "draft/2019-09", "draft-07", "draft-06", "draft-04")
)


class UnsupportedSchema(Exception):
    """A schema that cannot be followed exactly; `path` is the place of what it has, its keyword last."""

    def __init__(self, message: str, path: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.path = path


@dataclass(frozen=True, eq=False)
class Node:
    """A schema and its place: the keywords and members that lead there, and the URI that its references extend."""

    schema: Mapping[str, Any] | bool
    path: tuple[str, ...] = ()
    base: str = ""

    @property
    def members(self) -> Mapping[str, Any]:
        """The schema's keywords; none if it is true or false."""
        return {} if isinstance(self.schema, bool) else self.schema

    def refused(self, keyword: str, reason: str = "is not supported") -> UnsupportedSchema:
        """The error that names a keyword of this schema."""
        return UnsupportedSchema(f"the schema's keyword {keyword!r} {reason}", (*self.path, keyword))


class Document:
    """One schema with all schemas in it.

    Raises:
        UnsupportedSchema: it is no schema, or has too many in it.
    """

    def __init__(self, schema: Any) -> None:
        self._nodes: dict[int, Node] = {}
        self._resources: dict[str, Any] = {"": schema}
        self._anchors: dict[tuple[str, str], Node] = {}
        self._dynamic: dict[str, list[Node]] = {}
        self._walk(schema)
        self.root = self.node(schema, Node(True))

    def node(self, schema: Any, parent: Node, *steps: str) -> Node:
        """The node of a schema below that of `parent`; also of one that is made of it."""
        known = self._nodes.get(id(schema)) if isinstance(schema, Mapping) else None
        return known or _node(schema, (*parent.path, *steps), parent.base)

    def target(self, node: Node, keyword: str) -> Node:
        """Where a reference leads. Raises UnsupportedSchema."""
        reference = node.members.get(keyword)
        if not isinstance(reference, str):
            raise node.refused(keyword, "has to be a string")
        where, fragment = _resolved(node, keyword, reference)
        if where not in self._resources:
            raise node.refused(keyword, f"leads out of the schema: {reference[:100]!r}")
        if fragment and not fragment.startswith("/"):
            if (where, fragment) not in self._anchors:
                raise node.refused(keyword, f"leads nowhere: {reference[:100]!r}")
            return self._anchors[where, fragment]
        found = self._resources[where]
        for step in unquote(fragment).split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            if isinstance(found, Mapping) and name in found:
                found = found[name]
            elif isinstance(found, list) and name.isdecimal() and len(name) < 9 and int(name) < len(found):
                found = found[int(name)]
            else:
                raise node.refused(keyword, f"leads nowhere: {reference[:100]!r}")
        if not isinstance(found, Mapping | bool):
            raise node.refused(keyword, "leads to what is no schema")
        return self.node(found, Node(True, node.path, where), keyword)

    def dynamic_target(self, node: Node) -> Node:
        """Where `$dynamicRef` leads, if that does not depend on how one came here. Raises UnsupportedSchema."""
        found = self.target(node, "$dynamicRef")
        name = found.members.get("$dynamicAnchor")
        reference = urldefrag(str(node.members["$dynamicRef"]))[1]
        if name is not None and name == reference and len(self._dynamic[name]) > 1:
            raise node.refused("$dynamicRef", "is not supported where several schemas have its anchor")
        return found

    def _walk(self, schema: Any) -> None:
        waiting: list[tuple[Any, tuple[str, ...], str]] = [(schema, (), "")]
        while waiting:
            schema, path, base = waiting.pop()
            if isinstance(schema, Mapping) and isinstance(schema.get("$id"), str):
                base = _resolved(_node(schema, path, base), "$id", schema["$id"])[0]
                self._resources[base] = schema
            node = _node(schema, path, base)
            if isinstance(schema, Mapping):
                self._note(node, schema)
                waiting += [(each, (*path, *steps), base) for steps, each in _subschemas(node, schema)]
            if len(self._nodes) + len(waiting) > MOST_NODES:
                raise UnsupportedSchema(f"the schema has more than {MOST_NODES} schemas in it")

    def _note(self, node: Node, schema: Mapping[str, Any]) -> None:
        self._nodes[id(schema)] = node
        for keyword in ("$anchor", "$dynamicAnchor"):
            if isinstance(schema.get(keyword), str):
                self._anchors[node.base, schema[keyword]] = node
        if isinstance(schema.get("$dynamicAnchor"), str):
            self._dynamic.setdefault(schema["$dynamicAnchor"], []).append(node)
        if "$schema" in schema and str(schema["$schema"]).removesuffix("#") not in _DRAFTS:
            raise node.refused("$schema", "names an unknown dialect")


def _resolved(node: Node, keyword: str, reference: str) -> tuple[str, str]:
    """Where a reference leads from the node, and the fragment there. Raises UnsupportedSchema."""
    try:
        # the others do not look at every reference
        urlsplit(reference)
        url, fragment = urldefrag(reference)
        return urldefrag(urljoin(node.base, url))[0] if url else node.base, fragment
    except ValueError as error:
        raise node.refused(keyword, f"is no URI reference: {reference[:100]!r}") from error


def _node(schema: Any, path: tuple[str, ...], base: str) -> Node:
    if not isinstance(schema, Mapping | bool):
        raise UnsupportedSchema("a schema has to be an object, true or false", path)
    return Node(schema, path, base)


def _subschemas(node: Node, schema: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for keyword in _ONE:
        if keyword in schema:
            yield (keyword,), schema[keyword]
    for keyword in _LIST:
        if keyword in schema:
            if not isinstance(schema[keyword], list):
                raise node.refused(keyword, "has to be a list of schemas")
            yield from (((keyword, str(i)), each) for i, each in enumerate(schema[keyword]))
    for keyword in _OBJECT:
        if keyword in schema:
            if not isinstance(schema[keyword], Mapping):
                raise node.refused(keyword, "has to be an object of schemas")
            yield from (((keyword, name), each) for name, each in schema[keyword].items())
