"""How a chat template is told how much the model shall think."""

import re
from collections.abc import Mapping
from typing import Any, Final, Literal

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]

_LEVEL: Final = "reasoning_effort"
_CODE: Final = re.compile(r"\{[{%](.*?)[%}]\}", re.DOTALL)
_QUOTED: Final = re.compile(r"""'[^']*'|"[^"]*\"""")
# on or off; a variable of templates, and no word of their texts
_SWITCHES: Final = ("enable_thinking", "thinking")


def effort_variables(source: str, effort: Effort) -> Mapping[str, Any]:
    """The template's variables for an effort; empty if it has none for it.

    A switch knows only whether to think. `reasoning_effort` itself is for the template to read, or to refuse.
    """
    variables: dict[str, Any] = {}
    if _reads(source, _LEVEL):
        variables[_LEVEL] = effort
    for switch in _SWITCHES:
        if _reads(source, switch):
            variables[switch] = effort != "none"
    return variables


def _reads(source: str, name: str) -> bool:
    """Whether code between Jinja's braces names it, other than as a member or in quotes."""
    codes = (_QUOTED.sub("", code) for code in _CODE.findall(source))
    return any(re.search(rf"(?<![\w.]){name}(?!\w)", code) for code in codes)
