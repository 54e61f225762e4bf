"""What the schemas of requests share: unsupported fields are refused by name, null is absent, text is Unicode."""

import marshal
import re
from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar, Final

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from splitlearn_client.api.neutral import Neutral

_Path = tuple[str | int, ...]
# a version of marshal's format; with references it takes a second for a million ids
_WITHOUT_REFERENCES: Final = 2
# in UTF-8, which marshal writes texts in; numbers may look like it
_MARSHALLED_SURROGATE: Final = re.compile(rb"\xed[\xa0-\xbf]")
_TEXTS: Final = frozenset({str, dict, list})
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


def _may_have_a_surrogate(value: Any) -> bool:
    """Whether to look for one, which takes far longer for some requests."""
    try:
        return _MARSHALLED_SURROGATE.search(marshal.dumps(value, _WITHOUT_REFERENCES)) is not None
    except ValueError:
        return True


def _unpaired_surrogate(value: Any, path: _Path = ()) -> _Path | None:
    """The path of a text with half of a surrogate pair, which JSON can escape and Unicode does not allow."""
    if isinstance(value, str):
        return path if _SURROGATE.search(value) else None
    if isinstance(value, dict):
        if any(_SURROGATE.search(name) for name in value):
            return path
        items: Any = value.items()
    elif isinstance(value, list) and not _TEXTS.isdisjoint(map(type, value)):
        items = enumerate(value)
    else:
        # ids among others, of which a prompt may have a million
        return None
    found = (_unpaired_surrogate(each, (*path, key)) for key, each in items if type(each) in _TEXTS)
    return next((each for each in found if each is not None), None)


class TextFields(Fields):
    """A request with text, which must be Unicode."""

    @model_validator(mode="before")
    @classmethod
    def _is_unicode(cls, sent: Any) -> Any:
        """Runs before `_only_what_matters`, because it is defined after it."""
        if _may_have_a_surrogate(sent) and (path := _unpaired_surrogate(sent)) is not None:
            text = "this text has half of a surrogate pair in it, which is no Unicode character"
            raise refusal(path, text)
        return sent
