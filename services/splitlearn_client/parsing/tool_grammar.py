"""The grammar of answers that call tools: in the family's own form, with the arguments that the tools' schemas ask for.

Pure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from splitlearn_client.parsing.dialect import Dialect, Prefix
from splitlearn_client.parsing.form import CallGrammar, Form, literal
from splitlearn_client.parsing.forms.harmony import ANALYSIS, CHANNEL, END, MESSAGE, START
from splitlearn_client.structured.tool_calls import CallsSource, Rule

ANY_OBJECT: Final = {"type": "object"}
_TERMINALS: Final = ("TEXT: /(?s:.+)/", "SPACE: /[ \\n]{0,4}/")


@dataclass(frozen=True)
class OfferedTool:
    """A tool that may be called; `place` is where its schema is in the request, and `schema` what its calls follow."""

    name: str
    schema: Mapping[str, Any]
    place: tuple[str, ...]


class _Writing:
    """The rules of one grammar."""

    def __init__(self, hidden: Mapping[str, int]) -> None:
        self._hidden = hidden
        self.rules = list[str](_TERMINALS)
        self.tokens: dict[str, int] = {}
        """The special tokens that rules stand for."""

    def is_token(self, marker: str) -> bool:
        return marker in self._hidden

    def marker(self, text: str) -> str:
        if text not in self._hidden:
            return literal(text)
        name = f"marker_{self._hidden[text]}"
        self.tokens[name] = self._hidden[text]
        return name

    def all(self, *parts: str) -> str:
        return " ".join(map(self.marker, parts))

    def up_to(self, rule: str, marker: str) -> str:
        """The name of a rule for any text up to a marker, which is in it."""
        if self.is_token(marker):
            self.rules.append(f"{rule}: TEXT? {self.marker(marker)}")
        else:
            self.rules.append(f"{rule}[suffix={literal(marker)}]: /(?s:.*)/")
        return rule


def tool_grammar(
    dialect: Dialect, form: Form, tools: Sequence[OfferedTool], prefix: Prefix, *, must_call: bool, is_one: bool
) -> CallsSource:
    """The grammar of an answer that calls one of these tools or, unless `is_one`, several of them.

    Args:
        must_call: whether it may not do without.
    """
    writing = _Writing(dialect.hidden)
    thought = _thought(dialect, prefix, writing)
    grammar = form.grammar(writing.marker)
    names = [f"call_{number}" for number in range(len(tools))]
    for number, tool in enumerate(tools):
        writing.rules.append(f"{names[number]}: {grammar.call(tool.name, f'arguments_{number}')}")
    writing.rules.append(f"call: {' | '.join(names)}")
    is_one = is_one or grammar.between is None
    more = "" if is_one else f"({grammar.between} call)*"
    writing.rules.append(f"calls: {grammar.opening} call {more} {grammar.closing}")
    body = "calls" if must_call else _free(dialect, form, grammar, tools, more, writing)
    writing.rules.append(f"start: {thought} ({body})")
    rules = tuple(Rule(f"arguments_{i}", tool.place, dict(tool.schema)) for i, tool in enumerate(tools))
    return CallsSource("\n".join(writing.rules), rules, writing.tokens)


def _thought(dialect: Dialect, prefix: Prefix, writing: _Writing) -> str:
    """What may come before, or what the prompt has begun."""
    if dialect.is_harmony:
        begun = prefix.ending.rpartition(START)[2]
        inner = f"{writing.up_to('analysis', END)} {writing.all(START, 'assistant')}"
        if begun.endswith(ANALYSIS):
            return inner
        return f"({writing.all(CHANNEL, 'analysis', MESSAGE)} {inner})?"
    thoughts = dialect.thoughts
    if thoughts is None:
        return ""
    inner = f"{writing.up_to('thought', thoughts.closing)} SPACE"
    if dialect.thinks(prefix):
        return inner
    if prefix.ending.rstrip().endswith(thoughts.closing):
        # the prompt says that there is none
        return ""
    token = thoughts.tokens[0]
    rest = thoughts.opening[len(token) :]
    opening = writing.marker(token) + (f" {literal(rest)}" if rest else "")
    return f"({opening} {inner})?"


def _free(
    dialect: Dialect,
    form: Form,
    grammar: CallGrammar,
    tools: Sequence[OfferedTool],
    more: str,
    writing: _Writing,
) -> str:
    """An answer that may call tools."""
    if dialect.is_harmony:
        says = f"{writing.all(CHANNEL, 'commentary', MESSAGE)} {writing.up_to('preamble', END)}"
        final = f"{writing.all(CHANNEL, 'final', MESSAGE)} TEXT"
        return f"({says} {writing.all(START, 'assistant')})? calls | {final}"
    opener = form.openers[0]
    written = writing.marker(opener)
    begins = grammar.opening or grammar.call("", "")
    if not begins.startswith(written):
        # calls are objects without a marker, so nothing else may look like one
        writing.rules.append("PLAIN: /[^{ \\n](?s:.*)/")
        return "PLAIN | calls"
    if writing.is_token(opener):
        return "TEXT | TEXT? calls"
    # the text and the marker are one rule, so the first call goes on behind it
    writing.rules.append(f"PLAIN: /(?s:.+)/ & ~/(?s:.*){_escaped(opener)}(?s:.*)/")
    tagged = writing.up_to("tagged", opener)
    if grammar.opening:
        return f"PLAIN | {tagged} {grammar.opening[len(written) :]} call {more} {grammar.closing}"
    for number, tool in enumerate(tools):
        call = grammar.call(tool.name, f"arguments_{number}")
        writing.rules.append(f"behind_{number}: {call[len(written) :]}")
    first = " | ".join(f"behind_{number}" for number in range(len(tools)))
    return f"PLAIN | {tagged} ({first}) {more}"


def _escaped(text: str) -> str:
    """A text in an expression of Lark."""
    return "".join(each if each.isalnum() else f"\\x{{{ord(each):x}}}" for each in text)
