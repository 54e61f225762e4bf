"""The entry point of `cleangpt`: global flags, and the end of every run in one line."""

import os
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version

import typer
from typer import TyperException
from typer.main import get_command

from cleangpt.cli.group import Invocation, VerbGroup
from cleangpt.errors import CleangptError, UsageError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb and returns the exit code: 0, 1 for a failure, 2 for wrong usage, 130 after Ctrl-C."""
    # transformers' own warnings speak to programmers; its errors still come through
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    invocation = Invocation()
    try:
        result = get_command(_app()).main(
            args=list(sys.argv[1:] if argv is None else argv),
            prog_name="cleangpt",
            standalone_mode=False,
            obj=invocation,
        )
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except _foreseen() as error:
        if invocation.debug:
            traceback.print_exception(error)
        print(f"cleangpt: error: {_line(error)}", file=sys.stderr)
        return 2 if isinstance(error, UsageError | TyperException) else 1
    return result if isinstance(result, int) else 0


def _app() -> typer.Typer:
    app = typer.Typer(cls=VerbGroup, add_completion=False, rich_markup_mode=None)

    @app.callback(invoke_without_command=True)
    def cleangpt(
        ctx: typer.Context,
        debug: bool = typer.Option(False, "--debug", help="Show tracebacks."),
        version_wanted: bool = typer.Option(False, "--version", help="Show the version and stop."),
    ) -> None:
        """Train and study small language models, ready to be cut and served by splitlearn."""
        if version_wanted:
            typer.echo(version("splitlearn"))
            raise typer.Exit
        if ctx.invoked_subcommand is None:
            typer.echo(ctx.get_help(), err=True)
            raise typer.Exit(2)
        ctx.obj.debug = debug

    return app


def _foreseen() -> tuple[type[BaseException], ...]:
    """The errors that end a run with one line; everything else is a bug and shows where it happened."""
    # a package that is not loaded has raised nothing
    roots = {
        "llm_sepweight.errors": "SepweightError",
        "splitlearn.errors": "SplitError",
        # of whatever opens the address of a trunk: see cleangpt.distillation.trunks
        "splitlearn_comm.errors": "CommError",
        "splitlearn_cli.errors": "CliError",
    }
    loaded = [getattr(sys.modules[module], name) for module, name in roots.items() if module in sys.modules]
    return (CleangptError, TyperException, OSError, ModuleNotFoundError, *loaded)


def _line(error: BaseException) -> str:
    if isinstance(error, TyperException):
        context = getattr(error, "ctx", None)
        where = f" (see {context.command_path} --help)" if context is not None else ""
        text = f"{error.format_message()}{where}"
    elif isinstance(error, ModuleNotFoundError):
        text = f"this needs the package {error.name}, which is not installed here: pip install 'splitlearn[train]'"
    elif isinstance(error, OSError) and error.strerror and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    else:
        text = str(error)
    return " ".join(text.split())


if __name__ == "__main__":
    sys.exit(main())
