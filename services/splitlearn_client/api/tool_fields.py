"""The fields of tools: OpenAI's `tools`, `tool_choice` and `parallel_tool_calls`, and calls in messages."""

import json
from typing import Annotated, Any, Final, Literal, Self, get_args

from pydantic import AfterValidator, Discriminator, Field, StrictBool, Tag, field_validator, model_validator

from splitlearn_client.api import neutral
from splitlearn_client.api.fields import Fields, refusal
from splitlearn_client.api.json_body import strict_json
from splitlearn_client.structured.constraint import LONGEST_SOURCE

MOST_TOOLS: Final = 128
MOST_CALLS: Final = 128
_NAME: Final = "^[A-Za-z0-9_-]{1,64}$"

ToolName = Annotated[str, Field(pattern=_NAME)]


class Function(Fields):
    """A function that the model may call. Without `parameters` it has none."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: StrictBool = False

    @field_validator("parameters", mode="after")
    @classmethod
    def _are_an_object(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is not None and value.get("type", "object") != "object":
            raise ValueError('the type of parameters has to be "object"')
        return value

    @property
    def schema_of_arguments(self) -> dict[str, Any]:
        """What the arguments follow."""
        if self.parameters is None:
            return {"type": "object", "properties": {}, "additionalProperties": False}
        return {**self.parameters, "type": "object"}


class Tool(Fields):
    """One of `tools`."""

    type: Literal["function"]
    function: Function

    def plain(self) -> dict[str, Any]:
        """The tool for a chat template."""
        function: dict[str, Any] = {"name": self.function.name, "description": self.function.description or ""}
        function["parameters"] = self.function.parameters or {"type": "object", "properties": {}}
        return {"type": "function", "function": function}


class ChosenFunction(Fields):
    name: ToolName


class ChosenTool(Fields):
    """A tool that has to be called."""

    type: Literal["function"]
    function: ChosenFunction


def choice_kind(value: Any) -> str | None:
    """The tag of an alternative of `tool_choice`."""
    return "<word>" if value in get_args(ToolWord) else "<tool>" if isinstance(value, dict) else None


ToolWord = Literal["none", "auto", "required"]
ToolChoice = Annotated[
    Annotated[ToolWord, Tag("<word>")] | Annotated[ChosenTool, Tag("<tool>")],
    Discriminator(
        choice_kind,
        custom_error_type="no_alternative",
        custom_error_message='expected "none", "auto", "required", or a tool',
    ),
]


class ToolFields(Fields):
    """What a conversation says of tools."""

    tools: list[Tool] = Field([], max_length=MOST_TOOLS, fail_fast=True)

    @field_validator("tools", mode="after")
    @classmethod
    def _are_told_apart(cls, tools: list[Tool]) -> list[Tool]:
        names = [tool.function.name for tool in tools]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"two tools are called {twice!r}")
        if len(json.dumps([tool.model_dump() for tool in tools])) > LONGEST_SOURCE:
            raise ValueError(f"the tools have more than {LONGEST_SOURCE} characters")
        return tools

    @property
    def told(self) -> list[Tool]:
        """The tools that the model is told of."""
        return self.tools


class ToolChoiceFields(ToolFields):
    """What an answer may do with them."""

    tool_choice: ToolChoice | None = None
    parallel_tool_calls: StrictBool = True

    @model_validator(mode="after")
    def _chooses_what_is_there(self) -> Self:
        choice = self.tool_choice
        if choice in (None, "none", "auto"):
            return self
        if not self.tools:
            raise refusal(("tool_choice",), "this needs tools")
        if isinstance(choice, ChosenTool) and choice.function.name not in {each.function.name for each in self.tools}:
            raise refusal(("tool_choice", "function", "name"), "no tool has this name")
        return self

    @property
    def told(self) -> list[Tool]:
        return [] if self.tool_choice == "none" else self.tools

    @property
    def offered(self) -> dict[int, Function]:
        """The functions that may be called, by their place among the tools."""
        if self.tool_choice == "none":
            return {}
        functions = {number: tool.function for number, tool in enumerate(self.tools)}
        if isinstance(self.tool_choice, ChosenTool):
            name = self.tool_choice.function.name
            return {number: each for number, each in functions.items() if each.name == name}
        return functions

    @property
    def must_call(self) -> bool:
        """Whether an answer has to call a tool."""
        return self.tool_choice not in (None, "none", "auto")

    @property
    def is_one_call(self) -> bool:
        """Whether an answer calls one tool at most."""
        return not self.parallel_tool_calls or isinstance(self.tool_choice, ChosenTool)

    @property
    def constrains_calls(self) -> bool:
        """Whether the form of an answer is not left to the model."""
        offered = self.offered.values()
        return bool(offered) and (self.must_call or self.is_one_call or any(each.strict for each in offered))


def _is_an_object(value: str) -> str:
    try:
        parsed = strict_json(value.encode() or b"{}")
    except (json.JSONDecodeError, UnicodeEncodeError) as error:
        raise ValueError("this text is not JSON") from error
    if not isinstance(parsed, dict):
        raise ValueError("this text is no JSON object")
    return value


CallArguments = Annotated[str, AfterValidator(_is_an_object)]


class CalledFunction(Fields):
    name: ToolName
    arguments: CallArguments


class ToolCall(Fields):
    """A call that the assistant made."""

    neutral = neutral.TOOL_CALL

    id: str = Field(min_length=1, max_length=256)
    type: Literal["function"] = "function"
    function: CalledFunction

    def plain(self) -> dict[str, Any]:
        """The call for a chat template, which takes its arguments as an object."""
        arguments = json.loads(self.function.arguments or "{}")
        return {"id": self.id, "type": "function", "function": {"name": self.function.name, "arguments": arguments}}
