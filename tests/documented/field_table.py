"""docs/api_fields.md, made from the schemas of requests: python -m tests.documented.field_table.

What other servers have is in fields_of_others.json, which is read from their sources anew for each of their versions.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from splitlearn_client.api.anthropic.fields import MessagesFields
from splitlearn_client.api.fields import Fields
from splitlearn_client.api.neutral import ANYTHING
from splitlearn_client.api.openai_responses.fields import ResponsesFields
from splitlearn_client.api.schema import ChatFields, CompletionFields, EmbeddingFields
from tests.documented.refused_fields import REFUSED

PAGE: Final = Path(__file__).parents[2] / "docs" / "api_fields.md"
OTHERS: Final[Mapping[str, Any]] = json.loads(Path(__file__).with_name("fields_of_others.json").read_text("utf-8"))
SERVERS: Final = ("vLLM", "llama-server")
AUTHORS: Final = ("OpenAI", "Anthropic")
SCHEMAS: Final[Mapping[str, type[Fields]]] = {
    "/v1/chat/completions": ChatFields,
    "/v1/completions": CompletionFields,
    "/v1/responses": ResponsesFields,
    "/v1/messages": MessagesFields,
    "/v1/embeddings": EmbeddingFields,
}
TAKEN, UNUSED, REFUSES = "yes", "any value, unused", "refused"

_HEAD = f"""# Fields of requests, here and elsewhere

Made by `make field-table` from the schemas of requests; do not edit. The tables have every field of a request's body
that SplitLearn, vLLM {OTHERS["vLLM"]["version"]} or llama-server ({OTHERS["llama-server"]["version"]}) has, and
those of {OTHERS["OpenAI"]["version"]} and {OTHERS["Anthropic"]["version"]}. What fields do here is in
[api.md](api.md).

A field in two columns has the same name, and not always the same meaning, default or range. The tables say nothing of
what is inside a field: messages, tools, `stream_options`. "yes" in another server's column says that its code has or
asks for the field, even if it then uses no value of it. What it only looks for in order to refuse it does not count
(llama-server: `best_of`, `suffix` and `echo` of completions, `previous_response_id` of responses). llama-server asks
for `model` where it serves several models.

In SplitLearn's column, "yes" is a field that is supported. "only" names the values that change nothing, and are taken
so that programs may send their defaults; any other is a 400 with the field's name. So is every value of a
"{REFUSES}" field, and of one that is in no table. Null counts as absent everywhere. Both other servers ignore fields
that they do not know. vLLM logs them at most, at the level debug; but it warns of the removed `guided_...`, and refuses
`normalize` in embeddings. llama-server does not look at them.

Each table begins with the fields of OpenAI's or Anthropic's API and those that SplitLearn supports.
"""
_ELSEWHERE = """
## Endpoints that others have

In their sources, and not here; some are only there for some models, or if an option says so.
"""


def decided(endpoint: str, name: str) -> str:
    """What the service does with a field: the words of its column."""
    schema = SCHEMAS[endpoint]
    if name in schema.names():
        return TAKEN
    rule = schema.neutral.get(name)
    if rule is None:
        return REFUSES
    return UNUSED if rule is ANYTHING else "only " + " or ".join(f"`{word}`" for word in rule.words.split(" or "))


def theirs(who: str, endpoint: str) -> frozenset[str]:
    """The fields of another server, or of an API's author."""
    return frozenset(OTHERS[who]["fields"].get(endpoint, ()))


def names(endpoint: str) -> list[str]:
    """The rows of a table, in their order."""
    schema = SCHEMAS[endpoint]
    first = schema.names().union(*(theirs(who, endpoint) for who in AUTHORS))
    rest = frozenset(schema.neutral).union(*(theirs(who, endpoint) for who in SERVERS)) - first
    return [*sorted(first), *sorted(rest)]


def render() -> str:
    """The whole page."""
    lines = [_HEAD, *_counts()]
    for endpoint in SCHEMAS:
        lines += [f"\n## {endpoint}\n", *_table(endpoint)]
    return "\n".join([*lines, *_refused(), _ELSEWHERE, *_elsewhere()]) + "\n"


def _counts() -> Iterator[str]:
    yield "| endpoint | server | fields | supported here | neutral values only | refused |"
    yield "|---|---|---|---|---|---|"
    for endpoint in SCHEMAS:
        for server in SERVERS:
            answers = [decided(endpoint, name) for name in theirs(server, endpoint)]
            taken, refused = answers.count(TAKEN), answers.count(REFUSES)
            neutral = len(answers) - taken - refused
            yield f"| `{endpoint}` | {server} | {len(answers)} | {taken} | {neutral} | {refused} |"


def _table(endpoint: str) -> Iterator[str]:
    yield f"| field | SplitLearn | {' | '.join(SERVERS)} |"
    yield "|---|---|---|---|"
    for name in names(endpoint):
        has = ["yes" if name in theirs(server, endpoint) else "–" for server in SERVERS]
        yield f"| `{name}` | {decided(endpoint, name)} | {' | '.join(has)} |"


def _refused() -> Iterator[str]:
    yield "\n## What is refused\n\nBy what it is about; a field may be refused by one endpoint and taken by another.\n"
    yield "| about | fields |"
    yield "|---|---|"
    for about, fields in REFUSED.items():
        yield f"| {about} | {', '.join(f'`{name}`' for name in fields.split())} |"


def _elsewhere() -> Iterator[str]:
    yield f"| for | {' | '.join(SERVERS)} |"
    yield "|---|---|---|"
    for row in OTHERS["endpoints_elsewhere"]:
        paths = [", ".join(f"`{path}`" for path in row[server]) or "–" for server in SERVERS]
        yield f"| {row['of']} | {' | '.join(paths)} |"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
