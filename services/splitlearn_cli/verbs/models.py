"""`splitlearn models`: lists the models of a running service."""

from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from splitlearn_cli.api_key import KEY_DESCRIPTION, SentKey, key_text
from splitlearn_cli.completion import served_models
from splitlearn_cli.flags import read_by
from splitlearn_cli.terminal import aligned, shown
from splitlearn_cli.urls import base_url


class Settings(BaseSettings):
    """The service."""

    model_config = SettingsConfigDict(
        env_prefix="SPLITLEARN_MODELS_", frozen=True, extra="forbid", hide_input_in_errors=True
    )

    url: Annotated[str, read_by(base_url)] = Field(
        "http://127.0.0.1:8000", description="Address of an OpenAI endpoint, with or without /v1."
    )
    api_key: SentKey = Field(None, description=KEY_DESCRIPTION)
    timeout: float = Field(30.0, gt=0, description="Seconds without a byte after which it counts as unreachable.")
    wait: float = Field(0.0, ge=0, description="Seconds to wait for a service that is starting.")


def run(settings: Settings) -> None:
    """Prints each model's name, and how many tokens a prompt and its answer may have together, where that is told."""
    models = served_models(
        base_url(settings.url), api_key=key_text(settings.api_key), timeout=settings.timeout, wait=settings.wait
    )
    rows = [(model["id"], str(model.get("max_model_len", "-"))) for model in models]
    print(shown(aligned([("model", "context"), *rows])))
