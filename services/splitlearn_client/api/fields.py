"""What the schemas of requests share: unsupported fields are refused by name, null is absent, text is Unicode,
numbers are finite.
"""

import marshal
import math
import re
from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar, Final

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from splitlearn_client.api.neutral import Neutral

_Path = tuple[str | int, ...]
_HALF: Final = "this text has half of a surrogate pair in it, which is no Unicode character"
_INFINITE: Final = "this number is too large"
# a version of marshal's format; with references it takes a second for a million ids
_WITHOUT_REFERENCES: Final = 2
# half a pair in UTF-8, which marshal writes texts in, or a number with the exponent of infinity; others may look so
_MARSHALLED: Final = re.compile(rb"\xed[\xa0-\xbf]|g.{6}[\xf0-\xff][\x7f\xff]", re.DOTALL)
_LOOKED_AT: Final = frozenset({str, float, dict, list})
_SURROGATE = re.compile("[\ud800-\udfff]")


class Fields(BaseModel):
    """One object of a request. At every depth null counts as absent, and so does a neutral value."""

    model_config = ConfigDict(extra="forbid")

    neutral: ClassVar[Mapping[str, Neutral]] = {}

    @classmethod
    @cache
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


def _may_be_unrepeatable(value: Any) -> bool:
    """Whether to look for what is, which takes far longer for some requests."""
    try:
        return _MARSHALLED.search(marshal.dumps(value, _WITHOUT_REFERENCES)) is not None
    except ValueError:
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
    elif isinstance(value, list) and not _LOOKED_AT.isdisjoint(map(type, value)):
        items = enumerate(value)
    else:
        # ids among others, of which a prompt may have a million
        return None
    found = (_unrepeatable(each, (*path, key)) for key, each in items if type(each) in _LOOKED_AT)
    return next((each for each in found if each is not None), None)


class TextFields(Fields):
    """A request with text, which must be Unicode, and with numbers, which must be finite."""

    @model_validator(mode="before")
    @classmethod
    def _is_repeatable(cls, sent: Any) -> Any:
        """Runs before `_only_what_matters`, because it is defined after it."""
        if _may_be_unrepeatable(sent) and (found := _unrepeatable(sent)) is not None:
            raise refusal(*found)
        return sent
