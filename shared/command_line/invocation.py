"""One run of a command, from its words to its exit code."""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import typer
from typer.main import get_command

from command_line.failures import Failure, Program, failure_of, foreseen


@dataclass
class Invocation:
    """The entry point owns it, because it outlives typer's context. `debug`: what the flag of that name said."""

    program: Program
    debug: bool = False

    def run(self, command: Callable[[], typer.Typer], argv: Sequence[str] | None) -> int:
        """Runs one verb and returns the exit code: 0, 1 for a failure, 2 for wrong usage, 130 after Ctrl-C.

        Args:
            command: makes the command; an error in there ends the run like one of a verb.
            argv: the words after the command's name; None takes those of this process.
        """
        # transformers' own warnings speak to programmers; its errors still come through
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        try:
            result = get_command(command()).main(
                args=list(sys.argv[1:] if argv is None else argv),
                prog_name=self.program.name,
                standalone_mode=False,
                obj=self,
            )
        except KeyboardInterrupt:
            return 130
        except typer.Abort as abort:
            # typer takes an EOFError for the end of what the user types, but a verb raises it of a file that ends early
            if isinstance(abort.__cause__, EOFError):
                raise abort.__cause__ from None
            return 130
        except foreseen(self.program) as error:
            failure = failure_of(error, self.program)
            self.tell(error, failure)
            return failure.exit_code
        return result if isinstance(result, int) else 0

    def tell(self, error: BaseException, failure: Failure) -> None:
        """The last line of a run that failed, on stderr; with `debug` after the traceback."""
        if self.debug:
            traceback.print_exception(error)
        print(f"{self.program.name}: error: {failure.message}", file=sys.stderr)


def end_without_verb(ctx: typer.Context, *, version_wanted: bool) -> None:
    """Ends a run that asks for the version, or for nothing at all: the help, and wrong usage."""
    if version_wanted:
        typer.echo(version("splitlearn"))
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help(), err=True)
        raise typer.Exit(2)
