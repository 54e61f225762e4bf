"""What llguidance says of a grammar that it cannot use, in the terms of the request.

It quotes the lines of the grammar that it compiles, with their numbers. Only those of a grammar in Lark are the
caller's own: expressions, choices, schemas and GBNF are written anew.

Pure.
"""

import re
from typing import Final

_NOTE: Final = "<non-verbose/>"
_PLACE: Final = re.compile(r"(?:at )?(\d+)\((\d+)\): ")
_QUOTED_LINE: Final = re.compile(r"^ *\d+ \| ", re.MULTILINE)
# what is wrong with an expression, behind the expression
_EXPRESSION: Final = re.compile(r'invalid regex ".*" \(in regex\): (?:.*^error: )?(.*)', re.DOTALL | re.MULTILINE)
_UNSATISFIABLE: Final = re.compile(r"(?:failed to compile JSON schema: )?Unsatisfiable schema: ")
_GBNF: Final = "Failed to convert the grammar from GBNF to Lark: "
_SPECIAL_TOKENS: Final = "; following special tokens"


def line_of(error: str) -> int | None:
    """The line of the grammar that is wrong, from 1 on."""
    place = _PLACE.match(error)
    return None if place is None else int(place[1])


def reason_of(error: str, *, is_own: bool = False) -> str:
    """What is wrong. `is_own`: the lines of the grammar are the caller's, so its place there is said too."""
    text = _QUOTED_LINE.split(error.removesuffix(_NOTE), maxsplit=1)[0]
    place = _PLACE.match(text)
    text = text[place.end() :] if place else text
    where = f"line {place[1]}, column {place[2]}: " if place and is_own else ""
    if wrong := _EXPRESSION.match(text):
        text = f"a regular expression is wrong: {wrong[1]}"
    elif _UNSATISFIABLE.match(text):
        text = f"no value follows the schema: {_UNSATISFIABLE.sub('', text)}"
    elif text.startswith(_GBNF):
        text = f"it was read as GBNF, as it has no rule start of Lark: {text.removeprefix(_GBNF)}"
    return where + " ".join(text.partition(_SPECIAL_TOKENS)[0].split())
