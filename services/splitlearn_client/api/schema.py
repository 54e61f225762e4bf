"""Schemas of the OpenAI API's requests.

Unsupported fields are refused by name, and not ignored, unless their value is neutral: see `neutral.py`.
"""

import re
from dataclasses import replace
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    StrictInt,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from splitlearn_client.api import neutral
from splitlearn_client.api.fields import Fields, TextFields, refusal
from splitlearn_client.api.prompt_fields import Input, Prompt, named
from splitlearn_client.api.structured_fields import ResponseFormat, StructuredOutputs
from splitlearn_client.api.tool_fields import MOST_CALLS, ToolCall, ToolChoiceFields, ToolFields
from splitlearn_client.sampling import SamplingSettings
from splitlearn_client.stopping import StopRules
from splitlearn_client.structured.constraint import Constraint
from splitlearn_client.text.chat_template import Rendering
from splitlearn_client.text.reasoning_effort import Effort

_OPENAI = SamplingSettings()
MOST_STOPS: Final = 16
# biases and stop tokens; each is a few lines of Python's when the answer begins
MOST_TOKENS: Final = 1024
# allowed tokens: more than vocabularies have
MOST_ALLOWED: Final = 1 << 19
# each is compared with the end of the answer before each token
MOST_BAD_WORDS: Final = 128
# of the prompts of one request; their reply is one JSON object
MOST_PROMPT_LOGPROBS: Final = 1 << 17
MOST_TEMPLATE_VARIABLES: Final = 64
# of all prompts of a request together
MOST_ANSWERS: Final = 128
# in characters; each stop string is searched in each token's text, and may hold back as much text as its length
LONGEST_STOP: Final = 1024
_LONGEST_SALT: Final = 256

# fields that are those of SamplingSettings
_SAMPLING: Final = {
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "seed",
}

_TOKEN_NAME = re.compile("0|[1-9][0-9]{0,9}")
# tags of a union's members; the angle brackets distinguish them from field names in an error's path
_TEXT, _TEXTS, _PARTS = "<text>", "<texts>", "<parts>"


class StreamOptions(Fields):
    neutral = neutral.STREAM_OPTIONS

    include_usage: bool = False
    # as in vLLM: with include_usage, every chunk has the usage so far
    continuous_usage_stats: bool = False


def _stop_kind(value: Any) -> str | None:
    return _TEXT if isinstance(value, str) else _TEXTS if isinstance(value, list) else None


_StopText = Annotated[str, Field(min_length=1, max_length=LONGEST_STOP)]
Stop = Annotated[
    Annotated[_StopText, Tag(_TEXT)]
    | Annotated[list[_StopText], Field(max_length=MOST_STOPS, fail_fast=True), Tag(_TEXTS)],
    Discriminator(
        _stop_kind, custom_error_type="no_alternative", custom_error_message="expected a string, or a list of strings"
    ),
]


# strict: neither true nor "5" is an id
_Token = Annotated[StrictInt, Field(ge=0)]


def _token_named(name: Any) -> int:
    """The token whose id is a member's name."""
    if isinstance(name, str) and _TOKEN_NAME.fullmatch(name):
        return int(name)
    raise PydanticCustomError("not_a_token", 'the name of each member has to be the id of a token, such as "50256"')


_TokenName = Annotated[int, BeforeValidator(_token_named)]
_BadWord = Annotated[str, Field(max_length=LONGEST_STOP, pattern=r"\S")]
_Bias = Annotated[float, Field(ge=-100, le=100, strict=True)]


# vLLM's: prompts share cached rows only with those of one salt
Salt = Annotated[str, Field(min_length=1, max_length=_LONGEST_SALT)]


class SamplingFields(TextFields):
    """How tokens are chosen, and what ends an answer: OpenAI's fields and vLLM's."""

    temperature: float = Field(1.0, ge=0, le=2)
    # 0 leaves the most likely token alone
    top_p: float = Field(1.0, ge=0, le=1)
    top_k: int = Field(0, ge=0)
    min_p: float = Field(0.0, ge=0, le=1)
    repetition_penalty: float = Field(1.0, ge=0.1, le=10)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    logit_bias: dict[_TokenName, _Bias | None] = Field({}, max_length=MOST_TOKENS)
    allowed_token_ids: list[_Token] | None = Field(None, min_length=1, max_length=MOST_ALLOWED, fail_fast=True)
    bad_words: list[_BadWord] = Field([], max_length=MOST_BAD_WORDS, fail_fast=True)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Stop | None = None
    stop_token_ids: list[_Token] = Field([], max_length=MOST_TOKENS, fail_fast=True)
    ignore_eos: bool = False
    min_tokens: int = Field(0, ge=0)
    include_stop_str_in_output: bool = False

    @property
    def stop_rules(self) -> StopRules:
        texts = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return StopRules(
            texts, frozenset(self.stop_token_ids), self.ignore_eos, self.min_tokens, self.include_stop_str_in_output
        )

    @property
    def biases(self) -> tuple[tuple[int, float], ...]:
        """The biases that change something, by token."""
        return tuple((token, bias) for token, bias in self.logit_bias.items() if bias)

    def sampling(self, top_logprobs: int | None, defaults: SamplingSettings = _OPENAI) -> SamplingSettings:
        """The sampling settings, with `defaults` for what the request leaves out, and without its bad words."""
        names = _SAMPLING & self.model_fields_set
        given = {name: getattr(self, name) for name in names}
        allowed = None if self.allowed_token_ids is None else frozenset(self.allowed_token_ids)
        return replace(defaults, top_logprobs=top_logprobs, logit_bias=self.biases, allowed_token_ids=allowed, **given)


class GenerationFields(SamplingFields):
    """Fields that chat and plain completions have in common."""

    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    n: int = Field(1, ge=1, le=MOST_ANSWERS)
    prompt_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    return_token_ids: bool = False
    # the last so many tokens; -1: as many as leave room for the answer
    truncate_prompt_tokens: StrictInt | None = Field(None, ge=-1)
    cache_salt: Salt | None = None

    @field_validator("truncate_prompt_tokens", mode="after")
    @classmethod
    def _leaves_a_prompt(cls, value: int | None) -> int | None:
        if value == 0:
            raise ValueError("0 tokens are no prompt; ask for at least 1, or for -1")
        return value

    @model_validator(mode="after")
    def _has_one_constraint(self) -> Self:
        if self.response_format is not None and self.structured_outputs is not None:
            raise refusal(("structured_outputs",), "send either response_format or structured_outputs")
        return self

    @field_validator("prompt_logprobs", mode="after")
    @classmethod
    def _comes_whole(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and info.data.get("stream"):
            raise ValueError("log-probabilities of the prompt are not streamed; ask without stream")
        return value

    @property
    def n_answers(self) -> int:
        """Answers to generate for each prompt; of more than `n` the best ones are kept."""
        return self.n

    @property
    def is_constrained(self) -> bool:
        """Whether the answer has to follow something."""
        return self.response_format is not None or self.structured_outputs is not None

    def constraint(self) -> Constraint | None:
        """What the answer has to follow. Raises BadRequest."""
        field = self.response_format or self.structured_outputs
        return None if field is None else field.constraint()

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def continuous_usage(self) -> bool:
        return self.include_usage and self.stream_options is not None and self.stream_options.continuous_usage_stats


class CompletionFields(GenerationFields):
    """POST /v1/completions."""

    neutral = neutral.COMPLETION

    prompt: Prompt
    best_of: int | None = Field(None, ge=1, le=MOST_ANSWERS)
    echo: bool = False
    # 0 with echo or prompt_logprobs: the prompt alone
    max_tokens: int | None = Field(16, ge=0)
    logprobs: int | None = Field(None, ge=0, le=20)

    @property
    def n_answers(self) -> int:
        return self.best_of or self.n

    @model_validator(mode="after")
    def _can_choose_the_best(self) -> Self:
        if self.n_answers < self.n:
            raise refusal(("best_of",), f"the best {self.n} of {self.best_of} answers cannot be had; ask for more")
        if self.stream and self.n_answers > self.n:
            raise refusal(("best_of",), "which answers are the best is known at their end; ask without stream")
        return self

    @model_validator(mode="after")
    def _has_an_answer(self) -> Self:
        if self.max_tokens == 0 and not self.echo and self.prompt_logprobs is None:
            raise refusal(("max_tokens",), "0 tokens are no answer; ask for at least 1, or for the prompt with echo")
        return self

    @property
    def prompts(self) -> dict[str, str | list[int]]:
        """The prompts, by the names that errors use."""
        return named("prompt", self.prompt)


class EmbeddingFields(TextFields):
    """POST /v1/embeddings."""

    neutral = neutral.EMBEDDING

    model: str
    input: Input
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: StrictInt | None = Field(None, ge=1)

    @property
    def inputs(self) -> dict[str, str | list[int]]:
        """The inputs, by the names that errors use."""
        return named("input", self.input)


class TextPart(Fields):
    neutral = neutral.CONTENT_PART

    type: Literal["text"]
    text: str


def _content_kind(value: Any) -> str | None:
    return _TEXT if isinstance(value, str) else _PARTS if isinstance(value, list) else None


Content = Annotated[
    Annotated[str, Tag(_TEXT)] | Annotated[list[TextPart], Field(fail_fast=True), Tag(_PARTS)],
    Discriminator(
        _content_kind,
        custom_error_type="no_alternative",
        custom_error_message="expected a string, or a list of text parts",
    ),
]


class Message(Fields):
    neutral = neutral.MESSAGE

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    name: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] = Field([], max_length=MOST_CALLS, fail_fast=True)
    tool_call_id: str | None = Field(None, min_length=1, max_length=256)

    @model_validator(mode="after")
    def _has_what_its_role_needs(self) -> Self:
        if self.content is None and not self.tool_calls:
            raise refusal(("content",), "Field required")
        if self.role == "tool" and self.tool_call_id is None:
            raise refusal(("tool_call_id",), "Field required")
        for field, role in _ROLES.items():
            if getattr(self, field) and self.role != role:
                raise refusal((field,), f"this field belongs to messages of the role {role!r}")
        return self

    def plain(self) -> dict[str, Any]:
        """The message for a chat template; `ChatTemplate` chooses the form of its content."""
        content = self.content or ""
        plain: dict[str, Any] = {
            "role": self.role,
            "content": content if isinstance(content, str) else [part.model_dump() for part in content],
        }
        if self.tool_calls:
            plain["tool_calls"] = [call.plain() for call in self.tool_calls]
        given = {name: getattr(self, name) for name in ("name", "reasoning_content", "tool_call_id")}
        return plain | {name: value for name, value in given.items() if value is not None}


_ROLES: Final = {"reasoning_content": "assistant", "tool_calls": "assistant", "tool_call_id": "tool"}
"""Fields of messages of one role."""


class ConversationFields(TextFields, ToolFields):
    """How a conversation is rendered; see `Rendering`."""

    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: dict[str, Any] = Field({}, max_length=MOST_TEMPLATE_VARIABLES)
    reasoning_effort: Effort | None = None

    @property
    def rendering(self) -> Rendering:
        return Rendering(
            self.add_generation_prompt,
            self.continue_final_message,
            self.chat_template_kwargs,
            tuple(tool.plain() for tool in self.told),
            self.reasoning_effort,
        )


class ChatFields(GenerationFields, ToolChoiceFields, ConversationFields):
    """POST /v1/chat/completions."""

    neutral = neutral.CHAT

    messages: list[Message] = Field(min_length=1, fail_fast=True)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)

    @field_validator("top_logprobs", mode="after")
    @classmethod
    def _logprobs_agree(cls, value: int | None, info: ValidationInfo) -> int | None:
        # `logprobs` is missing here if it is invalid itself
        if value is not None and info.data.get("logprobs") is False:
            raise ValueError("top_logprobs needs logprobs to be true")
        return value


class TokenizeFields(ConversationFields):
    """POST /tokenize: a text, or a conversation."""

    neutral = neutral.TOKENIZE

    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = Field(None, min_length=1, fail_fast=True)
    # absent: true for a text, false for a conversation, whose template writes them
    add_special_tokens: bool | None = None
    return_token_strs: bool = False

    @model_validator(mode="after")
    def _is_one_of_them(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise refusal(("prompt",), "send either prompt or messages")
        if self.tools and self.messages is None:
            raise refusal(("tools",), "tools belong to messages")
        return self


class DetokenizeFields(Fields):
    """POST /detokenize."""

    model: str | None = None
    tokens: list[StrictInt] = Field(fail_fast=True)
