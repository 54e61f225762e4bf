"""What the schemas of requests share: unsupported fields are refused by name, null is absent, text is Unicode,
numbers are finite.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from splitlearn_client.api.neutral import Neutral

_Path = tuple[str | int, ...]
_HALF: Final = "this text has half of a surrogate pair in it, which is no Unicode character"
_INFINITE: Final = "this number is too large"
_SURROGATE = re.compile("[\ud800-\udfff]")


class Fields(BaseModel):
    """One object of a request. At every depth null counts as absent, and so does a neutral value."""

    model_config = ConfigDict(extra="forbid")

    neutral: ClassVar[Mapping[str, Neutral]] = {}

    @classmethod
    def names(cls) -> frozenset[str]:
        """The names of its fields in requests."""
        return frozenset(field.alias or name for name, field in cls.model_fields.items())

    @model_validator(mode="before")
    @classmethod
    def _only_what_matters(cls, sent: Any) -> Any:
        if not isinstance(sent, dict):
            return sent
        rules = cls.neutral
        meant = {
            name: value
            for name, value in sent.items()
            if value is not None and not (name in rules and rules[name].holds(value))
        }
        known = cls.names()
        unknown = [name for name in meant if name not in known]
        wrong = next((name for name in unknown if name in rules), None)
        if wrong is not None:
            raise refusal((wrong,), f"this value is not supported here; leave it out or send {rules[wrong].words}")
        # one unknown field is enough for an error; a request may have very many
        for name in unknown[1:]:
            del meant[name]
        return meant


def refusal(path: _Path, text: str) -> ValidationError:
    """The error with which a validator of an object names a member."""
    problem = PydanticCustomError("not_supported", "{text}", {"text": text})
    return ValidationError.from_exception_data("request", [InitErrorDetails(type=problem, loc=path, input=None)])


def _repeatable(value: Any) -> bool:
    """Whether a value can be written as JSON, in UTF-8. Much quicker than finding what cannot."""
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, TypeError):
        return False
    return True


def _unrepeatable(value: Any, path: _Path = ()) -> tuple[_Path, str] | None:
    """The path of what no reply can repeat, and what is wrong with it.

    JSON can escape half of a surrogate pair, which Unicode does not allow, and can write numbers that are infinite when
    they are read.
    """
    if isinstance(value, str):
        return (path, _HALF) if _SURROGATE.search(value) else None
    if isinstance(value, float):
        return None if math.isfinite(value) else (path, _INFINITE)
    if isinstance(value, dict):
        if any(_SURROGATE.search(name) for name in value):
            return path, _HALF
        items: Any = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        return None
    # skips ids, of which a prompt may have a million
    told = ((key, each) for key, each in items if isinstance(each, str | float | dict | list))
    return next((found for key, each in told if (found := _unrepeatable(each, (*path, key))) is not None), None)


class TextFields(Fields):
    """A request with text, which must be Unicode, and with numbers, which must be finite."""

    @model_validator(mode="before")
    @classmethod
    def _is_repeatable(cls, sent: Any) -> Any:
        """Runs before `_only_what_matters`, because it is defined after it."""
        if not _repeatable(sent) and (found := _unrepeatable(sent)) is not None:
            raise refusal(*found)
        return sent
