"""What the schemas of requests share: unsupported fields are refused by name, null is absent, text is Unicode."""

import json
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from splitlearn_client.api.neutral import Neutral

_Path = tuple[str | int, ...]
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


def _encodable(value: Any) -> bool:
    """Whether a value can be encoded as UTF-8. Much quicker than finding the place."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (UnicodeEncodeError, TypeError):
        return False
    return True


def _unpaired_surrogate(value: Any, path: _Path = ()) -> _Path | None:
    """The path of a text with half of a surrogate pair, which JSON can escape and Unicode does not allow."""
    if isinstance(value, str):
        return path if _SURROGATE.search(value) else None
    if isinstance(value, dict):
        if any(_SURROGATE.search(name) for name in value):
            return path
        items: Any = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        return None
    # skips ids, of which a prompt may have a million
    texts = ((key, each) for key, each in items if isinstance(each, str | dict | list))
    return next((found for key, each in texts if (found := _unpaired_surrogate(each, (*path, key))) is not None), None)


class TextFields(Fields):
    """A request with text, which must be Unicode."""

    @model_validator(mode="before")
    @classmethod
    def _is_unicode(cls, sent: Any) -> Any:
        """Runs before `_only_what_matters`, because it is defined after it."""
        if not _encodable(sent) and (path := _unpaired_surrogate(sent)) is not None:
            text = "this text has half of a surrogate pair in it, which is no Unicode character"
            raise refusal(path, text)
        return sent
