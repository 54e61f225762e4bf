"""The names of all fields, of all requests."""

from typing import Final

from splitlearn_client.api import schema
from splitlearn_client.api.anthropic import fields as anthropic
from splitlearn_client.api.fields import Fields
from splitlearn_client.api.openai_responses import fields as openai_responses


def _names(of: type[Fields]) -> frozenset[str]:
    return frozenset({*of.names(), *of.neutral}).union(*map(_names, of.__subclasses__()))


# their modules must have been imported
_ = anthropic, openai_responses, schema
FIELD_NAMES: Final = _names(Fields)
"""Those of all objects, and of those that are refused by name. Callers make up others."""
