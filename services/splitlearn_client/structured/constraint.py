"""What an answer has to follow, as a request says it.

Pure: no compiler, no clock.
"""

from dataclasses import dataclass, field
from typing import Final, Literal

Language = Literal["json_schema", "regex", "choice", "grammar"]
Kind = Language | Literal["answer"]

LONGEST_SOURCE: Final = 1 << 17
"""The most characters of a schema, an expression or a grammar."""


@dataclass(frozen=True)
class Constraint:
    """What an answer has to follow.

    Attributes:
        kind: which language `source` is in.
        source: a JSON Schema or a list of choices as JSON, a regular expression, a grammar (Lark or GBNF), or what
            `AnswerSource` writes.
        param: the request's field, for errors. Equal constraints may come from different fields. Errors within a part
            of an "answer" name that part's field.
    """

    kind: Kind
    source: str
    param: str = field(default="", compare=False)
