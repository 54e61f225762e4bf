"""The command `splitlearn`, with its global flags."""

import inspect
from typing import Any

import typer
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from splitlearn_cli.flags import parameters, settings_from
from splitlearn_cli.group import Verbs
from splitlearn_cli.logs import LogFormat, LogLevel, configure
from splitlearn_command.invocation import end_without_verb


class GlobalSettings(BaseSettings):
    """Flags before the verb."""

    model_config = SettingsConfigDict(env_prefix="SPLITLEARN_", frozen=True, extra="ignore")

    debug: bool = Field(False, description="Show tracebacks.")
    log_format: LogFormat = Field("auto", description="auto is console on a terminal, else json.")
    log_level: LogLevel = Field("info", description="Lowest level of log lines to show.")


def command() -> typer.Typer:
    """The typer app of the command line. Its context's `obj` is the `Invocation`."""
    app = typer.Typer(cls=Verbs, rich_markup_mode=None)

    def splitlearn(ctx: typer.Context, version_wanted: bool, **given: Any) -> None:
        end_without_verb(ctx, version_wanted=version_wanted)
        settings = settings_from(GlobalSettings, given)
        ctx.obj.debug = settings.debug
        configure(settings.log_format, settings.log_level)

    context = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    show_version = inspect.Parameter(
        "version_wanted",
        inspect.Parameter.KEYWORD_ONLY,
        annotation=bool,
        default=typer.Option(False, "--version", help="Show the version and stop."),
    )
    splitlearn.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [context, *parameters(GlobalSettings), show_version]
    )
    app.callback(
        invoke_without_command=True,
        help="Serve a language model in parts: text stays with the client, trunks run the middle layers.",
    )(splitlearn)
    return app
