"""What was said so far, and how the next answer is asked for. No terminal and no network."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from splitlearn_cli.errors import BadUsage


class Message(BaseModel):
    """One message, as in OpenAI's format."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: str
    content: str


class _Saved(BaseModel):
    model_config = ConfigDict(extra="forbid")

    messages: list[Message]


@dataclass
class Conversation:
    """Messages of a user and a model in turns, behind an optional system prompt.

    Attributes:
        system: the system prompt; empty for none.
        unanswered: what was asked and got no answer; None if the last question was answered.
    """

    system: str = ""
    turns: list[Message] = field(default_factory=list)
    unanswered: str | None = None

    def asking(self, text: str) -> list[Message]:
        """The messages that ask for an answer to `text`; it belongs to the conversation once it is answered."""
        self.unanswered = text
        before = [Message(role="system", content=self.system)] if self.system else []
        return [*before, *self.turns, Message(role="user", content=text)]

    def answered(self, text: str) -> None:
        """Keeps the last question with its answer."""
        if self.unanswered is not None:
            self.turns += [Message(role="user", content=self.unanswered), Message(role="assistant", content=text)]
        self.unanswered = None

    def begin(self) -> None:
        """Forgets all turns; the system prompt stays."""
        self.turns.clear()
        self.unanswered = None

    def take_back(self) -> str | None:
        """Removes the last question with its answer, if it got one, and returns it; None if nothing was asked."""
        if self.unanswered is not None:
            text, self.unanswered = self.unanswered, None
            return text
        if not self.turns:
            return None
        del self.turns[-1]
        return self.turns.pop().content

    def as_json(self) -> str:
        """The messages in OpenAI's format."""
        before = [Message(role="system", content=self.system)] if self.system else []
        messages = [message.model_dump() for message in (*before, *self.turns)]
        return json.dumps({"messages": messages}, ensure_ascii=False, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> "Conversation":
        """Reads what `as_json` wrote. Raises BadUsage: it is something else."""
        try:
            messages = _Saved.model_validate_json(text).messages
        except ValidationError as error:
            raise BadUsage("it is no conversation that /save wrote") from error
        system = messages.pop(0).content if messages and messages[0].role == "system" else ""
        if [message.role for message in messages] != ["user", "assistant"] * (len(messages) // 2):
            raise BadUsage("its messages are not a user's and an assistant's in turns")
        return cls(system, messages)


@dataclass
class Sampling:
    """How tokens are drawn; None leaves a value to the service."""

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None

    def fields(self) -> Mapping[str, Any]:
        """Those that are set, as a request has them."""
        return {name: value for name, value in vars(self).items() if value is not None}
