"""What a training is made from, compared by name, and the differences in words."""

import re
from collections.abc import Mapping
from typing import Any

from cleangpt.data.batches import TEXT

_VALIDATION = "validation "
WHEN_TEXT_CHANGES = (
    "data that draws random numbers of its own is another one each time, unless the dataset or sampler has state_dict "
    "and load_state_dict"
)
# of a digest or a whole config nobody wants to read both
_LONGEST_SHOWN = 40
# a dataclass of plain numbers, as a schedule is
_VALUE = re.compile(r"(\w+)\(((?:\w+=[^,()]*(?:, |(?=\))))+)\)")
_ARGUMENT = re.compile(r"(\w+)=([^,()]*)")

Changes = dict[str, tuple[Any, Any]]
"""What was and what is now, by name; None where there was nothing."""


def of_validation(described: Mapping[str, str]) -> dict[str, str]:
    """A description of data as that of the data to validate on, under names of its own."""
    return {f"{_VALIDATION}{name}": value for name, value in described.items()}


def changes_between(was: Mapping[str, Any], now: Mapping[str, Any]) -> Changes:
    """What is now otherwise than it was, or was not there."""
    return {name: (was.get(name), now[name]) for name in now if was.get(name) != now[name]}


def in_words(changes: Changes) -> str:
    """The changes as one line. What changed for training and validation alike is said once."""
    told = {
        name: change
        for name, change in changes.items()
        if not (name.startswith(_VALIDATION) and changes.get(name.removeprefix(_VALIDATION)) == change)
    }
    return "; ".join(_in_words(name, *change) for name, change in told.items())


def _in_words(name: str, was: Any, now: Any) -> str:
    if name == TEXT:
        return f"other {TEXT} ({WHEN_TEXT_CHANGES})"
    if arguments := _changed_arguments(str(was), str(now)):
        return ", ".join(_in_words(f"{name}'s {argument}", *change) for argument, change in arguments.items())
    if was is None or max(len(str(was)), len(str(now))) > _LONGEST_SHOWN:
        return f"other {name}"
    return f"{name} was {was} and is now {'not set' if now is None else now}"


def _changed_arguments(was: str, now: str) -> Changes:
    """Between two values of one class, as their repr writes them: the arguments that differ; else nothing."""
    before, after = _VALUE.fullmatch(was), _VALUE.fullmatch(now)
    if before is None or after is None or before[1] != after[1]:
        return {}
    return changes_between(dict(_ARGUMENT.findall(before[2])), dict(_ARGUMENT.findall(after[2])))
