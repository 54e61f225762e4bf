"""Schemas of the Responses API's requests.

What they have in common with chats (ranges, tools) is checked by the fields of the chat that a request becomes.
"""

from typing import Annotated, Any, Final, Literal, Self

from pydantic import Discriminator, Field, StrictBool, Tag, model_validator

from splitlearn_client.api import neutral
from splitlearn_client.api.fields import Fields, refusal
from splitlearn_client.api.schema import MOST_TEMPLATE_VARIABLES, Salt, SamplingFields, StreamOptions
from splitlearn_client.api.structured_fields import StructuredOutputs
from splitlearn_client.api.tool_fields import MOST_TOOLS, CallArguments, Function, ToolName, ToolWord, choice_kind
from splitlearn_client.text.reasoning_effort import Effort

MOST_METADATA: Final = 16
_LONGEST_ID: Final = 256
_MOST_INCLUDED: Final = 16
_LOGPROBS: Final = "message.output_text.logprobs"
_TEXT, _ITEMS = "<text>", "<items>"
_PARTS: Final = "expected a string, or a list of text parts"
_KINDS: Final = ("message", "function_call", "function_call_output", "reasoning")

Identity = Annotated[str, Field(min_length=1, max_length=_LONGEST_ID)]


class InputText(Fields):
    """A part of a message, of the caller's or of the model's."""

    neutral = neutral.RESPONSES_PART

    type: Literal["input_text", "output_text"]
    text: str


def _text_or_list(value: Any) -> str | None:
    return _TEXT if isinstance(value, str) else _ITEMS if isinstance(value, list) else None


Content = Annotated[
    Annotated[str, Tag(_TEXT)] | Annotated[list[InputText], Field(fail_fast=True), Tag(_ITEMS)],
    Discriminator(_text_or_list, custom_error_type="no_alternative", custom_error_message=_PARTS),
]


class MessageItem(Fields):
    """What somebody said."""

    neutral = neutral.RESPONSES_ITEM

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Content


class CallItem(Fields):
    """A call that the model made."""

    neutral = neutral.RESPONSES_ITEM

    type: Literal["function_call"]
    call_id: Identity
    name: ToolName
    arguments: CallArguments


class CallOutputItem(Fields):
    """What a call gave."""

    neutral = neutral.RESPONSES_ITEM

    type: Literal["function_call_output"]
    call_id: Identity
    name: ToolName | None = None
    output: Content


class ReasoningText(Fields):
    type: Literal["reasoning_text", "summary_text"]
    text: str


class ReasoningItem(Fields):
    """What the model thought."""

    neutral = neutral.RESPONSES_ITEM

    type: Literal["reasoning"]
    summary: list[ReasoningText] = Field([], fail_fast=True)
    content: list[ReasoningText] = Field([], fail_fast=True)

    @property
    def text(self) -> str:
        """All of it, or its summary where there is no more."""
        return "".join(part.text for part in self.content or self.summary)


def _item_kind(value: Any) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else ""
    return "<message>" if kind is None else f"<{kind}>" if kind in _KINDS else None


Item = Annotated[
    Annotated[MessageItem, Tag("<message>")]
    | Annotated[CallItem, Tag("<function_call>")]
    | Annotated[CallOutputItem, Tag("<function_call_output>")]
    | Annotated[ReasoningItem, Tag("<reasoning>")],
    Discriminator(
        _item_kind,
        custom_error_type="no_alternative",
        custom_error_message=f"expected an item of one of the types {', '.join(_KINDS)}",
    ),
]
Input = Annotated[
    Annotated[str, Tag(_TEXT)] | Annotated[list[Item], Field(min_length=1, fail_fast=True), Tag(_ITEMS)],
    Discriminator(
        _text_or_list, custom_error_type="no_alternative", custom_error_message="expected a string, or a list of items"
    ),
]


class _OfType(Fields):
    type: Literal["function"]


class FunctionTool(Function, _OfType):
    """A tool, in the flat form that this API has. Its type is checked first."""

    neutral = neutral.RESPONSES_TOOL


class NamedFunction(_OfType):
    name: ToolName


ToolChoice = Annotated[
    Annotated[ToolWord, Tag("<word>")] | Annotated[NamedFunction, Tag("<tool>")],
    Discriminator(
        choice_kind,
        custom_error_type="no_alternative",
        custom_error_message='expected "none", "auto", "required", or a function',
    ),
]


class TextFormat(Fields):
    """What `response_format` is in chats, without the wrapping of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: StrictBool = False

    @model_validator(mode="after")
    def _has_a_schema_if_it_needs_one(self) -> Self:
        for field, value in (("schema", self.schema_), ("name", self.name)):
            if (self.type == "json_schema") != (value is not None):
                needs = "is required with" if value is None else "does not belong to"
                raise refusal((field,), f"this field {needs} the type {self.type}")
        return self


class TextConfig(Fields):
    neutral = neutral.RESPONSES_TEXT

    format: TextFormat | None = None


class ReasoningConfig(Fields):
    neutral = neutral.RESPONSES_REASONING

    effort: Effort | None = None


class ResponsesFields(SamplingFields):
    """POST /v1/responses."""

    neutral = neutral.RESPONSES

    model: str
    input: Input
    instructions: str | None = None
    tools: list[FunctionTool] = Field([], max_length=MOST_TOOLS, fail_fast=True)
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: StrictBool = True
    max_output_tokens: int | None = Field(None, ge=1)
    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None
    structured_outputs: StructuredOutputs | None = None
    include: list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] = Field(
        [], max_length=_MOST_INCLUDED, fail_fast=True
    )
    top_logprobs: int | None = Field(None, ge=0, le=20)
    cache_salt: Salt | None = None
    stream: StrictBool = False
    stream_options: StreamOptions | None = None
    store: StrictBool = True
    previous_response_id: Identity | None = None
    metadata: dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] = Field(
        {}, max_length=MOST_METADATA
    )
    chat_template_kwargs: dict[str, Any] = Field({}, max_length=MOST_TEMPLATE_VARIABLES)

    @model_validator(mode="after")
    def _asks_for_logprobs_in_one_way(self) -> Self:
        if self.top_logprobs is not None and not self.wants_logprobs:
            raise refusal(("top_logprobs",), f'this needs include to have "{_LOGPROBS}"')
        return self

    @model_validator(mode="after")
    def _has_one_form(self) -> Self:
        if self.structured_outputs is not None and self.format is not None and self.format.type != "text":
            raise refusal(("structured_outputs",), "send either text.format or structured_outputs")
        return self

    @property
    def wants_logprobs(self) -> bool:
        """Whether the parts of messages have log-probabilities."""
        return _LOGPROBS in self.include

    @property
    def format(self) -> TextFormat | None:
        return None if self.text is None else self.text.format

    @property
    def effort(self) -> Effort | None:
        return None if self.reasoning is None else self.reasoning.effort
