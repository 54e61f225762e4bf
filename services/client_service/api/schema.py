"""Requests of the OpenAI API as this service takes them.

Fields that cannot be honoured are refused by name rather than ignored; a few that change nothing about the
answer (`user`, `metadata`, ...) are accepted.
"""

from dataclasses import replace
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from client_service.sampling import SamplingSettings

_OPENAI = SamplingSettings()


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    include_usage: bool = False


class GenerationFields(BaseModel):
    """What chat and plain completions share."""

    model_config = ConfigDict(extra="forbid")

    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    min_p: float = Field(0.0, ge=0, le=1)
    repetition_penalty: float = Field(1.0, ge=0.1, le=10)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = None
    n: Literal[1] = 1
    # accepted, without effect on the answer
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, fields: Any) -> Any:
        return {k: v for k, v in fields.items() if v is not None} if isinstance(fields, dict) else fields

    @model_validator(mode="after")
    def _stops_are_usable(self) -> Self:
        if len(self.stops) > 16 or any(not stop for stop in self.stops):
            raise ValueError("stop takes at most 16 strings, none of them empty")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    def sampling(self, top_logprobs: int | None, defaults: SamplingSettings = _OPENAI) -> SamplingSettings:
        """How to sample; `defaults` for what the request leaves out."""
        names = {"temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed"} & self.model_fields_set
        return replace(defaults, top_logprobs=top_logprobs, **{name: getattr(self, name) for name in names})


class CompletionFields(GenerationFields):
    """POST /v1/completions."""

    prompt: str | list[int] = Field(min_length=1)
    max_tokens: int | None = Field(16, ge=1)
    logprobs: int | None = Field(None, ge=0, le=20)


class TextPart(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]
    text: str


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    def plain(self) -> dict[str, Any]:
        """The message as chat templates read it; `ChatTemplate` finds the form of content that one takes."""
        content = self.content if isinstance(self.content, str) else [part.model_dump() for part in self.content]
        named = {} if self.name is None else {"name": self.name}
        return {"role": self.role, "content": content, **named}


class ChatFields(GenerationFields):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)

    @model_validator(mode="after")
    def _logprobs_agree(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs to be true")
        return self
