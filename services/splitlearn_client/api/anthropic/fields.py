"""Schemas of the Messages API's requests.

What they have in common with chats (ranges, tools) is checked by the fields of the chat that a request becomes.
"""

from typing import Annotated, Any, Final, Literal, Self

from pydantic import Discriminator, Field, StrictBool, Tag, model_validator

from splitlearn_client.api import neutral
from splitlearn_client.api.fields import Fields, TextFields, refusal
from splitlearn_client.api.schema import LONGEST_STOP, MOST_STOPS, MOST_TEMPLATE_VARIABLES
from splitlearn_client.api.tool_fields import MOST_TOOLS, ToolName
from splitlearn_client.text.reasoning_effort import Effort

_LONGEST_ID: Final = 256
_TEXT, _BLOCKS = "<text>", "<blocks>"
_ALTERNATIVES: Final = "expected a string, or a list of blocks of text"

Identity = Annotated[str, Field(min_length=1, max_length=_LONGEST_ID)]


class TextBlock(Fields):
    neutral = neutral.ANTHROPIC_BLOCK

    type: Literal["text"]
    text: str


def _text_or_list(value: Any) -> str | None:
    return _TEXT if isinstance(value, str) else _BLOCKS if isinstance(value, list) else None


Text = Annotated[
    Annotated[str, Tag(_TEXT)] | Annotated[list[TextBlock], Field(fail_fast=True), Tag(_BLOCKS)],
    Discriminator(_text_or_list, custom_error_type="no_alternative", custom_error_message=_ALTERNATIVES),
]


class ToolUseBlock(Fields):
    """A call that the model made."""

    neutral = neutral.ANTHROPIC_BLOCK

    type: Literal["tool_use"]
    id: Identity
    name: ToolName
    input: dict[str, Any]


class ToolResultBlock(Fields):
    """What a call gave."""

    neutral = neutral.ANTHROPIC_BLOCK

    type: Literal["tool_result"]
    tool_use_id: Identity
    content: Text = ""


class ThinkingBlock(Fields):
    """What the model thought."""

    neutral = neutral.ANTHROPIC_BLOCK

    type: Literal["thinking"]
    thinking: str


_KINDS: Final = {"text", "tool_use", "tool_result", "thinking"}
_ROLES: Final = {
    "user": {"text", "tool_result"},
    "assistant": {"text", "tool_use", "thinking"},
    "system": {"text"},
}
"""Which blocks the messages of a role may have."""


def _block_kind(value: Any) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else None
    return f"<{kind}>" if isinstance(kind, str) and kind in _KINDS else None


Block = Annotated[
    Annotated[TextBlock, Tag("<text>")]
    | Annotated[ToolUseBlock, Tag("<tool_use>")]
    | Annotated[ToolResultBlock, Tag("<tool_result>")]
    | Annotated[ThinkingBlock, Tag("<thinking>")],
    Discriminator(
        _block_kind,
        custom_error_type="no_alternative",
        custom_error_message=f"expected a block of one of the types {', '.join(sorted(_KINDS))}",
    ),
]
Content = Annotated[
    Annotated[str, Tag(_TEXT)] | Annotated[list[Block], Field(fail_fast=True), Tag(_BLOCKS)],
    Discriminator(
        _text_or_list, custom_error_type="no_alternative", custom_error_message="expected a string, or a list of blocks"
    ),
]


class Message(Fields):
    """What one side said, and what its tools did."""

    role: Literal["user", "assistant", "system"]
    content: Content

    @model_validator(mode="after")
    def _has_blocks_of_its_role(self) -> Self:
        for number, block in enumerate(self.blocks):
            if block.type not in _ROLES[self.role]:
                raise refusal(
                    ("content", number, "type"), f"a message of the role {self.role!r} has no block {block.type}"
                )
        return self

    @property
    def blocks(self) -> list[Block]:
        """Its blocks; a text is one."""
        content = self.content
        return [TextBlock(type="text", text=content)] if isinstance(content, str) else content


class Tool(Fields):
    neutral = neutral.ANTHROPIC_TOOL

    type: Literal["custom"] = "custom"
    name: ToolName
    description: str | None = None
    input_schema: dict[str, Any]
    strict: StrictBool = False


class ToolChoice(Fields):
    type: Literal["auto", "any", "tool", "none"]
    name: ToolName | None = None
    disable_parallel_tool_use: StrictBool = False

    @model_validator(mode="after")
    def _has_a_name_if_it_needs_one(self) -> Self:
        if (self.type == "tool") != (self.name is not None):
            needs = "is required with" if self.name is None else "does not belong to"
            raise refusal(("name",), f"this field {needs} the type {self.type}")
        return self


class OutputFormat(Fields):
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(Fields):
    neutral = neutral.ANTHROPIC_OUTPUT

    format: OutputFormat | None = None
    effort: Effort | None = None


class CountFields(TextFields):
    """POST /v1/messages/count_tokens: what a prompt is made of."""

    neutral = neutral.ANTHROPIC

    model: str
    messages: list[Message] = Field(min_length=1, fail_fast=True)
    system: Text | None = None
    tools: list[Tool] = Field([], max_length=MOST_TOOLS, fail_fast=True)
    tool_choice: ToolChoice | None = None
    output_config: OutputConfig | None = None
    chat_template_kwargs: dict[str, Any] = Field({}, max_length=MOST_TEMPLATE_VARIABLES)


class MessagesFields(CountFields):
    """POST /v1/messages."""

    max_tokens: int = Field(ge=1)
    stop_sequences: list[Annotated[str, Field(min_length=1, max_length=LONGEST_STOP)]] = Field(
        [], max_length=MOST_STOPS, fail_fast=True
    )
    stream: StrictBool = False
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
