"""The grammar of answers in the family's own form: reasoning, then calls of tools, or what a request's field asks for.

Pure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from splitlearn_client.parsing.dialect import Dialect, Prefix
from splitlearn_client.parsing.form import CallGrammar, Form, literal
from splitlearn_client.parsing.forms.harmony import ANALYSIS, CHANNEL, END, MESSAGE, START, Harmony, is_between
from splitlearn_client.structured.answer_source import CONSTRAINED, AnswerSource, Rule
from splitlearn_client.structured.constraint import Constraint

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


@dataclass(frozen=True)
class Offered:
    """What an answer may call.

    Attributes:
        form: how it is written.
        must_call: whether it may not do without.
        is_one: whether there is one call at most.
    """

    form: Form
    tools: Sequence[OfferedTool]
    must_call: bool
    is_one: bool


def is_marked(form: Form) -> bool:
    """Whether a marker tells calls from other answers; without one they are JSON objects."""
    grammar = form.grammar(literal)
    begins = grammar.opening or grammar.call("", "")
    return isinstance(form, Harmony) or begins.startswith(literal(form.openers[0]))


def answer_grammar(
    dialect: Dialect, prefix: Prefix, offered: Offered | None, constraint: Constraint | None
) -> AnswerSource:
    """The grammar of an answer, which may begin with reasoning.

    Args:
        offered: None if it calls nothing.
        constraint: what an answer without calls has to follow; None allows any text. It does not go together with calls
            that are not marked.
    """
    writing = _Writing(dialect.hidden)
    thought = _thought(dialect, prefix, writing)
    body = _said(dialect, prefix, writing) if offered is None else _calls(dialect, prefix, offered, constraint, writing)
    writing.rules.append(f"start: {thought} ({body})")
    tools = () if offered is None else offered.tools
    rules = tuple(Rule(f"arguments_{i}", tool.place, dict(tool.schema)) for i, tool in enumerate(tools))
    asked = constraint if offered is None or not offered.must_call else None
    # whatever begins so is read as calls; Harmony's are in messages of their own
    openers = () if offered is None or asked is None else offered.form.openers
    return AnswerSource("\n".join(writing.rules), rules, writing.tokens, asked, openers)


def _said(dialect: Dialect, prefix: Prefix, writing: _Writing) -> str:
    """An answer that follows the constraint."""
    header = writing.all(CHANNEL, "final", MESSAGE) if dialect.is_harmony and not _is_begun(prefix) else ""
    return f"{header} {CONSTRAINED}"


def _calls(dialect: Dialect, prefix: Prefix, offered: Offered, constraint: Constraint | None, writing: _Writing) -> str:
    """An answer that calls tools, or may."""
    grammar = offered.form.grammar(writing.marker)
    names = [f"call_{number}" for number in range(len(offered.tools))]
    for number, tool in enumerate(offered.tools):
        writing.rules.append(f"{names[number]}: {grammar.call(tool.name, f'arguments_{number}')}")
    writing.rules.append(f"call: {' | '.join(names)}")
    is_one = offered.is_one or grammar.between is None
    more = "" if is_one else f"({grammar.between} call)*"
    is_within = dialect.is_harmony and _is_begun(prefix)
    # a call is a message of its own
    opening = writing.all(END, START, "assistant") if is_within else grammar.opening
    writing.rules.append(f"calls: {opening} call {more} {grammar.closing}")
    if offered.must_call:
        return "calls"
    if constraint is not None and (is_within or not dialect.is_harmony):
        return f"{CONSTRAINED} | calls"
    if is_within:
        return f"TEXT | {writing.up_to('said', END)} {writing.all(START, 'assistant')} call"
    return _free(dialect, offered, grammar, constraint, more, writing)


def _thought(dialect: Dialect, prefix: Prefix, writing: _Writing) -> str:
    """What may come before, or what the prompt has begun."""
    if dialect.is_harmony:
        if _is_begun(prefix):
            return ""
        header = writing.all(START, "assistant") if _is_between(prefix) else ""
        inner = f"{writing.up_to('analysis', END)} {writing.all(START, 'assistant')}"
        return inner if _analyses(prefix) else f"{header} ({writing.all(CHANNEL, 'analysis', MESSAGE)} {inner})?"
    thoughts = dialect.thoughts
    if thoughts is None:
        return ""
    inner = f"{writing.up_to('thought', thoughts.closing)} SPACE"
    if dialect.thinks(prefix):
        return inner
    if prefix.prefill or prefix.ending.rstrip().endswith(thoughts.closing):
        # the answer has begun already, or the prompt says that there is none
        return ""
    token = thoughts.tokens[0]
    rest = thoughts.opening[len(token) :]
    opening = writing.marker(token) + (f" {literal(rest)}" if rest else "")
    return f"({opening} {inner})?"


def _analyses(prefix: Prefix) -> bool:
    """Whether a prompt of Harmony ends within reasoning."""
    return prefix.ending.rpartition(START)[2].endswith(ANALYSIS)


def _is_begun(prefix: Prefix) -> bool:
    """Whether a prompt of Harmony ends within a message that is no reasoning."""
    # behind a long prefill the header is out of sight
    is_open = bool(prefix.prefill) or MESSAGE in prefix.ending.rpartition(START)[2]
    return is_open and not _analyses(prefix) and not _is_between(prefix)


def _is_between(prefix: Prefix) -> bool:
    """Whether a prompt of Harmony ends behind a message, as without a generation prompt."""
    return not prefix.prefill and is_between(prefix.ending)


def _free(
    dialect: Dialect,
    offered: Offered,
    grammar: CallGrammar,
    constraint: Constraint | None,
    more: str,
    writing: _Writing,
) -> str:
    """An answer that may call tools."""
    if dialect.is_harmony:
        says = f"{writing.all(CHANNEL, 'commentary', MESSAGE)} {writing.up_to('preamble', END)}"
        final = f"{writing.all(CHANNEL, 'final', MESSAGE)} {'TEXT' if constraint is None else CONSTRAINED}"
        return f"({says} {writing.all(START, 'assistant')})? calls | {final}"
    opener = offered.form.openers[0]
    written = writing.marker(opener)
    if not is_marked(offered.form):
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
    for number, tool in enumerate(offered.tools):
        call = grammar.call(tool.name, f"arguments_{number}")
        writing.rules.append(f"behind_{number}: {call[len(written) :]}")
    first = " | ".join(f"behind_{number}" for number in range(len(offered.tools)))
    return f"PLAIN | {tagged} ({first}) {more}"


def _escaped(text: str) -> str:
    """A text in an expression of Lark."""
    return "".join(each if each.isalnum() else f"\\x{{{ord(each):x}}}" for each in text)
