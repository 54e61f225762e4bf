"""`splitlearn bench`: measures an OpenAI endpoint under load."""

import asyncio
import json
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from splitlearn_cli.api_key import KEY_DESCRIPTION, SentKey, key_text
from splitlearn_cli.errors import BadUsage, CliError
from splitlearn_cli.flags import Flag, read_by
from splitlearn_cli.load.plan import (
    Load,
    Workload,
    parse_concurrency,
    parse_rates,
    parse_span,
    plan_levels,
)
from splitlearn_cli.terminal import note
from splitlearn_cli.urls import base_url
from splitlearn_cli.waiting import PATIENCE_SECONDS

if TYPE_CHECKING:
    from splitlearn_cli.load.record import MeasuredRun

_INTERRUPTED: Final = 130


class Settings(BaseSettings):
    """What to send, at what load, to which endpoint, and where the results go."""

    model_config = SettingsConfigDict(
        env_prefix="SPLITLEARN_BENCH_", frozen=True, extra="forbid", hide_input_in_errors=True
    )

    url: Annotated[str, read_by(base_url)] = Field(
        "http://127.0.0.1:8000", description="Address of the endpoint, with or without /v1."
    )
    model: str | None = Field(None, description="The model's name there. Default: the first that /v1/models lists.")
    api: Literal["completions", "chat"] = Field("completions", description="Which of the two APIs to call.")
    api_key: SentKey = Field(None, description=KEY_DESCRIPTION)
    max_concurrency: Annotated[str | None, read_by(parse_concurrency)] = Field(
        None, description="Requests in flight, N or N,N,... for several levels. Default: 1."
    )
    request_rate: Annotated[str | None, read_by(parse_rates)] = Field(
        None, description="Instead: requests per second (Poisson arrivals), R or R,R,... for several levels."
    )
    num_prompts: int = Field(32, ge=1, description="Requests per level.")
    num_warmups: int = Field(2, ge=0, description="Requests before each level that are not measured.")
    prompt_tokens: Annotated[str, read_by(parse_span)] = Field(
        "128", description="Tokens per prompt, N or LOW-HIGH; a text prompt has this many common words."
    )
    output_tokens: Annotated[str, read_by(parse_span)] = Field(
        "64", description="Sent as max_tokens, N or LOW-HIGH; a model may stop earlier."
    )
    prompt_kind: Literal["text", "ids"] = Field(
        "text", description="ids have exact lengths, but not every server accepts them."
    )
    seed: int = Field(0, description="Seed of prompts, lengths and arrivals; equal seeds send the same requests.")
    timeout: float = Field(300.0, gt=0, description="Seconds without a byte after which a request has failed.")
    wait: float = Field(PATIENCE_SECONDS, ge=0, description="Seconds to wait for a service that is starting.")
    json_file: Annotated[Path | None, Flag("--json")] = Field(
        None, description="Write all numbers and every request here."
    )
    plot: Path | None = Field(None, description="Draw latency against load here, a .png; needs several levels.")

    @property
    def loads(self) -> tuple[Load, ...]:
        return parse_rates(self.request_rate) if self.request_rate else parse_concurrency(self.max_concurrency or "1")

    @property
    def workload(self) -> Workload:
        prompts, outputs = parse_span(self.prompt_tokens), parse_span(self.output_tokens)
        return Workload(self.num_prompts, self.num_warmups, prompts, outputs, self.prompt_kind, self.seed)

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        problem = self._contradiction()
        if problem:
            raise PydanticCustomError("contradiction", "{problem}", {"problem": problem})
        return self

    def _contradiction(self) -> str | None:
        if self.max_concurrency and self.request_rate:
            return "--max-concurrency and --request-rate exclude each other; give one of them"
        widest = max(load.value for load in self.loads)
        if self.request_rate is None and widest > self.num_prompts:
            return f"--num-prompts {self.num_prompts} cannot reach --max-concurrency {widest:g}; give more prompts"
        if self.prompt_kind == "ids" and self.api == "chat":
            return "--prompt-kind ids needs --api completions, because a chat message is text"
        if self.plot is not None and self.plot.suffix != ".png":
            return f"--plot writes a PNG, so {self.plot} should end in .png"
        if self.plot is not None and len(self.loads) < 2:
            return "--plot draws latency against load; give several levels, such as --max-concurrency 1,4,16"
        return None


def run(settings: Settings) -> int:
    """Streams every answer, and prints throughput and latencies per level. Ctrl-C prints the results so far.

    Requests are not retried: failures (429, for example) are counted by kind. Exit code 1 if no request succeeded.
    """
    _check_outputs(settings)
    from splitlearn_cli.load.client import Endpoint
    from splitlearn_cli.load.record import MeasuredRun
    from splitlearn_cli.load.run import measure_levels
    from splitlearn_cli.waiting import wait_for_service

    url = base_url(settings.url)
    endpoint = Endpoint(url, settings.model, settings.api, settings.timeout, key_text(settings.api_key))
    started, measured, interrupted = datetime.now(UTC), MeasuredRun(), False
    try:
        wait_for_service(url, settings.wait)
        asyncio.run(measure_levels(endpoint, plan_levels(settings.loads, settings.workload), measured))
    except KeyboardInterrupt:
        interrupted = True
    if measured.begun:
        _show(settings, started, measured)
    if interrupted:
        note("interrupted" if measured.begun else "interrupted before any request had ended")
        return _INTERRUPTED
    if not measured.answered:
        raise CliError(f"no request to {url} succeeded")
    return 0


def _check_outputs(settings: Settings) -> None:
    """Checks the output flags before measuring, which may take minutes."""
    for flag, path in (("--json", settings.json_file), ("--plot", settings.plot)):
        if path is not None and not path.parent.is_dir():
            raise BadUsage(f"{flag} {path}: there is no directory {path.parent}")
    if settings.plot is not None:
        from splitlearn_cli.load.plot import require_matplotlib

        require_matplotlib()


def _show(settings: Settings, started: datetime, measured: "MeasuredRun") -> None:
    from splitlearn_cli.load import plot, report

    unit = "words" if settings.prompt_kind == "text" else "tokens"
    lengths = f"prompts of {settings.prompt_tokens} {unit}, answers of up to {settings.output_tokens} tokens"
    title = f"{measured.model}, {settings.api}, {lengths}, {settings.num_prompts} requests per level"
    print(f"{title}\n\n{report.tables(measured.begun)}", flush=True)
    for line in report.remarks(measured.begun):
        note(line)
    if settings.json_file is not None:
        about = {
            "splitlearn": version("splitlearn"),
            "started": started.isoformat(timespec="seconds"),
            "model": measured.model,
            "settings": settings.model_dump(mode="json", exclude={"api_key"}),
        }
        text = json.dumps(report.as_json(about, measured.begun), indent=1)
        settings.json_file.write_text(text + "\n", encoding="utf-8")
    if settings.plot is not None:
        plot.draw(settings.plot, title, measured.begun)
