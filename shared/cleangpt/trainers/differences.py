"""What a training is made from, compared by name, and the differences in words."""

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
    if was is None or max(len(str(was)), len(str(now))) > _LONGEST_SHOWN:
        return f"other {name}"
    return f"{name} was {was} and is now {'not set' if now is None else now}"
