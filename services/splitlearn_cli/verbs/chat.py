"""`splitlearn chat`: a conversation with a running client service."""

import sys
from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from splitlearn_cli.api_key import KEY_DESCRIPTION, SentKey, key_text
from splitlearn_cli.chat.commands import COMMANDS, Chat
from splitlearn_cli.chat.conversation import Conversation, Sampling
from splitlearn_cli.chat.lines import from_pipe, from_terminal, history_file
from splitlearn_cli.chat.screen import markdown, plain
from splitlearn_cli.chat.talk import Service, talk
from splitlearn_cli.completion import served_models
from splitlearn_cli.flags import read_by
from splitlearn_cli.terminal import note, printable
from splitlearn_cli.urls import base_url
from splitlearn_cli.waiting import PATIENCE_SECONDS


class Settings(BaseSettings):
    """The service, and how answers are drawn."""

    model_config = SettingsConfigDict(
        env_prefix="SPLITLEARN_CHAT_", frozen=True, extra="forbid", hide_input_in_errors=True
    )

    url: Annotated[str, read_by(base_url)] = Field(
        "http://127.0.0.1:8000", description="Address of the client service, with or without /v1."
    )
    api_key: SentKey = Field(None, description=KEY_DESCRIPTION)
    system: str = Field("", description="A system prompt.")
    max_tokens: int | None = Field(None, ge=1, description="The most tokens of an answer; not set, what the model has.")
    temperature: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="0 always takes the most likely token; not set, the service's."
    )
    top_p: float | None = Field(None, ge=0, le=1, description="The probability to draw from; not set, the service's.")
    seed: int | None = Field(None, description="Seed of sampling; makes a temperature above 0 repeatable.")
    markdown: bool = Field(True, description="Render the answers' Markdown, on a terminal.")
    history: bool = Field(
        True, description="Keep the lines that you enter, for the arrow keys, in a file that only you can read."
    )
    timeout: float = Field(
        120.0, gt=0, description="Seconds without a byte after which the service counts as unreachable."
    )
    wait: float = Field(PATIENCE_SECONDS, ge=0, description="Seconds to wait for a service that is starting.")


def run(settings: Settings) -> None:
    """Answers what you enter, in one conversation. /help lists its commands; Ctrl-C stops an answer, Ctrl-D ends.

    From a pipe, each line is a question, and the first error ends it.
    """
    url, api_key = base_url(settings.url), key_text(settings.api_key)
    name = served_models(url, api_key=api_key, timeout=settings.timeout, wait=settings.wait)[0]["id"]
    chat = Chat(
        Conversation(settings.system),
        Sampling(settings.temperature, settings.top_p, settings.max_tokens, settings.seed),
    )
    service = Service(url, settings.timeout, api_key)
    if not sys.stdin.isatty():
        talk(from_pipe(), chat, service, plain, goes_on=False)
        return
    note(f"{printable(name)} at {url}; /help lists commands")
    history = history_file() if settings.history else None
    screen = markdown if settings.markdown and sys.stdout.isatty() else plain
    talk(from_terminal([f"/{name}" for name in COMMANDS], history), chat, service, screen, goes_on=True)
