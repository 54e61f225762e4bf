"""What is sent as a prompt or as an input: a text, texts, token ids, or lists of them."""

from typing import Annotated, Any, Final

from pydantic import Discriminator, Field, StrictInt, Tag

# of a completion; they run one after the other
MOST_PROMPTS: Final = 128
# OpenAI's bound
MOST_INPUTS: Final = 2048
# OpenAI's bound, of all inputs of a request together
MOST_INPUT_TOKENS: Final = 300_000

# tags of a union's members; the angle brackets distinguish them from field names in an error's path
_TEXT, _TEXTS, _IDS, _LISTS_OF_IDS = "<text>", "<texts>", "<ids>", "<lists of ids>"


def _kind(value: Any) -> str | None:
    if isinstance(value, str):
        return _TEXT
    if not isinstance(value, list):
        return None
    first = value[0] if value else 0
    kinds = {str: _TEXTS, int: _IDS, list: _LISTS_OF_IDS}
    return kinds.get(type(first))


_BY_KIND: Final = Discriminator(
    _kind,
    custom_error_type="no_alternative",
    custom_error_message="expected a string, a list of strings, a list of token ids, or a list of such lists",
)

_Text = Annotated[str, Field(min_length=1)]
# strict: neither true nor "5" is an id
_Ids = Annotated[list[StrictInt], Field(min_length=1, fail_fast=True)]
Prompt = Annotated[
    Annotated[_Text, Tag(_TEXT)]
    | Annotated[list[_Text], Field(max_length=MOST_PROMPTS, fail_fast=True), Tag(_TEXTS)]
    | Annotated[_Ids, Tag(_IDS)]
    | Annotated[list[_Ids], Field(max_length=MOST_PROMPTS, fail_fast=True), Tag(_LISTS_OF_IDS)],
    _BY_KIND,
]
Input = Annotated[
    Annotated[_Text, Tag(_TEXT)]
    | Annotated[list[_Text], Field(max_length=MOST_INPUTS, fail_fast=True), Tag(_TEXTS)]
    | Annotated[_Ids, Tag(_IDS)]
    | Annotated[list[_Ids], Field(max_length=MOST_INPUTS, fail_fast=True), Tag(_LISTS_OF_IDS)],
    _BY_KIND,
]


def named(field: str, sent: str | list[str] | list[int] | list[list[int]]) -> dict[str, str | list[int]]:
    """The texts and lists of ids in a field, by the names that errors use."""
    if isinstance(sent, str) or not isinstance(sent[0], str | list):
        return {field: sent}
    return {f"{field}.{i}": each for i, each in enumerate(sent)}  # type: ignore[misc]
