"""`splitlearn generate`: sends one prompt to a running client service."""

from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from splitlearn_cli.api_key import KEY_DESCRIPTION, SentKey, key_text
from splitlearn_cli.completion import Question, show_answer
from splitlearn_cli.errors import ServiceRefused
from splitlearn_cli.flags import read_by
from splitlearn_cli.urls import base_url
from splitlearn_cli.waiting import PATIENCE_SECONDS

NO_CHAT_TEMPLATE = "no_chat_template"


class Settings(BaseSettings):
    """The prompt, and the service."""

    model_config = SettingsConfigDict(
        env_prefix="SPLITLEARN_GENERATE_", frozen=True, extra="forbid", hide_input_in_errors=True
    )

    prompt: str = Field(description="The prompt.")
    url: Annotated[str, read_by(base_url)] = Field(
        "http://127.0.0.1:8000", description="Address of the client service, with or without /v1."
    )
    api_key: SentKey = Field(None, description=KEY_DESCRIPTION)
    max_tokens: int = Field(128, ge=1, description="The most tokens of the answer.")
    temperature: float = Field(0.0, ge=0, description="0 always takes the most likely token.")
    seed: int | None = Field(None, description="Seed of sampling; makes a temperature above 0 repeatable.")
    raw: bool = Field(False, description="Continue the prompt itself, without a chat template.")
    timeout: float = Field(
        120.0, gt=0, description="Seconds without a byte after which the service counts as unreachable."
    )
    wait: float = Field(PATIENCE_SECONDS, ge=0, description="Seconds to wait for a service that is starting.")


def run(settings: Settings) -> None:
    """Streams the answer to stdout, then prints tokens/s and bytes on the wire to stderr."""
    question = Question(
        settings.prompt,
        settings.max_tokens,
        settings.temperature,
        seed=settings.seed,
        raw=settings.raw,
        api_key=key_text(settings.api_key),
    )
    try:
        show_answer(base_url(settings.url), question, timeout=settings.timeout, wait=settings.wait)
    except ServiceRefused as error:
        if error.code != NO_CHAT_TEMPLATE:
            raise
        raise ServiceRefused(
            "this model has no chat template; give --raw to continue the prompt without one",
            error.code,
        ) from error
