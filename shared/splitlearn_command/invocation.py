"""One run of a command, from its arguments to its exit code."""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import typer
from typer.main import get_command

from splitlearn_command.failures import Failure, Program, failure_of, foreseen


@dataclass
class Invocation:
    """One run. The entry point owns it, because it outlives typer's context. `debug` is the flag of that name."""

    program: Program
    debug: bool = False

    def run(self, command: Callable[[], typer.Typer], argv: Sequence[str] | None) -> int:
        """Runs one verb and returns the exit code: 0, 1 for a failure, 2 for wrong usage, 130 after Ctrl-C.

        Args:
            command: creates the command; its errors are handled like those of a verb.
            argv: the arguments; None takes those of the process.
        """
        # transformers' warnings are for programmers; its errors are still shown
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
            # typer takes an EOFError for the end of input, but a verb raises it for a truncated file
            if isinstance(abort.__cause__, EOFError):
                raise abort.__cause__ from None
            return 130
        except foreseen(self.program) as error:
            failure = failure_of(error, self.program)
            self.tell(error, failure)
            return failure.exit_code
        return result if isinstance(result, int) else 0

    def tell(self, error: BaseException, failure: Failure) -> None:
        """Prints the last line of a failed run on stderr; with `debug`, the traceback comes first."""
        if self.debug:
            traceback.print_exception(error)
        print(f"{self.program.name}: error: {failure.message}", file=sys.stderr)


def end_without_verb(ctx: typer.Context, *, version_wanted: bool) -> None:
    """Ends a run without a verb: prints the version if requested, else the help with exit code 2."""
    if version_wanted:
        typer.echo(version("splitlearn"))
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help(), err=True)
        raise typer.Exit(2)
