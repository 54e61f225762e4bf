"""The entry point of `cleangpt`: global flags, and the errors that end a run in one line."""

import sys
from collections.abc import Sequence
from typing import Final

import typer

from cleangpt.cli.group import Verbs
from cleangpt.errors import UsageError
from splitlearn_command.failures import Program
from splitlearn_command.invocation import Invocation, end_without_verb

PROGRAM: Final = Program(
    name="cleangpt",
    wrong_usage=UsageError,
    error_roots={
        "cleangpt.errors": "CleangptError",
        "llm_sepweight.errors": "SepweightError",
        "splitlearn.errors": "SplitError",
        # from the package that opens a trunk's address: see cleangpt.distillation.trunks
        "splitlearn_comm.errors": "CommError",
        "splitlearn_cli.errors": "CliError",
    },
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb and returns the exit code. An unexpected error is a bug, and shows where it happened."""
    return Invocation(PROGRAM).run(_app, argv)


def _app() -> typer.Typer:
    app = typer.Typer(cls=Verbs, rich_markup_mode=None)

    @app.callback(invoke_without_command=True)
    def cleangpt(
        ctx: typer.Context,
        debug: bool = typer.Option(False, "--debug", help="Show tracebacks."),
        version_wanted: bool = typer.Option(False, "--version", help="Show the version and stop."),
    ) -> None:
        """Train and study small language models, ready to be cut and served by splitlearn."""
        end_without_verb(ctx, version_wanted=version_wanted)
        ctx.obj.debug = debug

    return app


if __name__ == "__main__":
    sys.exit(main())
