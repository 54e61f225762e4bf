"""What one family of models writes calls in, and how a grammar makes it write them.

Pure.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from splitlearn_client.parsing.calls import Calls
from splitlearn_client.parsing.source import Source, Step

Write = Callable[[str], str]
"""A marker as it is written in a grammar."""


@dataclass(frozen=True)
class CallGrammar:
    """The parts of a grammar in Lark that calls follow, each a sequence of it.

    Attributes:
        call: of a tool's name and of the rule that its arguments follow.
        opening: before the calls.
        between: two calls; None where an answer has one.
        closing: behind the calls.
    """

    call: Callable[[str, str], str]
    opening: str = ""
    between: str | None = '"\\n"'
    closing: str = ""


class Form(Protocol):
    """How a family writes calls."""

    @property
    def openers(self) -> tuple[str, ...]:
        """What a call begins with behind text; none begins another."""
        ...

    @property
    def markers(self) -> tuple[str, ...]:
        """All that is written around calls; special tokens of these names are kept in the text."""
        ...

    def read(self, source: Source, calls: Calls, opener: str) -> Step[None]:
        """Reads calls behind one of the openers."""
        ...

    def begin(self, source: Source, calls: Calls) -> Step[None]:
        """Reads calls at the beginning of an answer, where no marker is needed."""
        ...

    def grammar(self, write: Write) -> CallGrammar:
        """How calls are written."""
        ...


class MarkedForm:
    """A form that always has a marker."""

    def begin(self, source: Source, calls: Calls) -> Step[None]:
        yield from ()


def literal(text: str) -> str:
    """A text in Lark."""
    return json.dumps(text)


def envelope(name: str, arguments: str, key: str = "arguments") -> str:
    """The sequence of an object with a call's name and its arguments."""
    beginning = f'{{"name": {json.dumps(name)}, "{key}": '
    return f"{literal(beginning)} {arguments} {literal('}')}"
