"""The entry point of `splitlearn`: process-wide settings, global flags, and the end of every run."""

import inspect
import os
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from types import TracebackType
from typing import Any, Final

import typer
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from typer.main import get_command

from splitlearn_cli.children import PARENT_VARIABLE, end_with_parent
from splitlearn_cli.errors import Failure, bug, failure_of, foreseen
from splitlearn_cli.flags import parameters, settings_from
from splitlearn_cli.group import Invocation, VerbGroup
from splitlearn_cli.logs import LogFormat, LogLevel, configure

# Read once, when torch loads its OpenMP library. Trunk and client of one machine take turns token by token;
# threads that spin while they wait for work take the cores away from the process whose turn it is, and threads that
# sleep wake up late. Of 0 to 500000 turns of the loop, 20000 to 100000 gave most tokens per second, and fewer let the
# event loop answer sooner beside a long prompt: that bridges the gap between two operators, not that between tokens.
_SPIN_COUNT: Final = "20000"


class GlobalSettings(BaseSettings):
    """Flags that stand before the verb."""

    model_config = SettingsConfigDict(env_prefix="SPLITLEARN_", frozen=True, extra="ignore")

    debug: bool = Field(False, description="Show tracebacks.")
    log_format: LogFormat = Field("auto", description="auto is console on a terminal, json elsewhere.")
    log_level: LogLevel = Field("info", description="Least severe log lines to show.")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb and returns the exit code: 0, 1 for a failure, 2 for wrong usage, 130 after Ctrl-C."""
    os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)
    # transformers' own warnings speak to programmers; its errors still come through
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if parent := os.environ.pop(PARENT_VARIABLE, None):
        end_with_parent(int(parent))
    invocation = Invocation()
    sys.excepthook = _excepthook(invocation)
    try:
        result = get_command(_app()).main(
            args=list(sys.argv[1:] if argv is None else argv),
            prog_name="splitlearn",
            standalone_mode=False,
            obj=invocation,
        )
    except foreseen() as error:
        failure = failure_of(error)
        _report(error, failure, invocation)
        return failure.exit_code
    return result if isinstance(result, int) else 0


def _app() -> typer.Typer:
    app = typer.Typer(cls=VerbGroup, add_completion=False, rich_markup_mode=None)

    def splitlearn(ctx: typer.Context, version_wanted: bool, **given: Any) -> None:
        if version_wanted:
            typer.echo(version("splitlearn"))
            raise typer.Exit
        if ctx.invoked_subcommand is None:
            typer.echo(ctx.get_help(), err=True)
            raise typer.Exit(2)
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
        help="Serve a language model that no single machine holds whole: the text stays with the client, "
        "trunks run the middle layers.",
    )(splitlearn)
    return app


def _report(error: BaseException, failure: Failure, invocation: Invocation) -> None:
    if invocation.debug:
        traceback.print_exception(error)
    print(f"splitlearn: error: {failure.message}", file=sys.stderr)


def _excepthook(invocation: Invocation) -> Any:
    def report(_kind: type[BaseException], error: BaseException, _trace: TracebackType | None) -> None:
        _report(error, bug(error), invocation)

    return report


if __name__ == "__main__":
    sys.exit(main())
