import os
from collections.abc import Callable
from importlib.metadata import version

import pytest
import typer

from splitlearn_command.failures import Program
from splitlearn_command.invocation import Invocation, end_without_verb


class Unusable(Exception):
    pass


BREW = Program("brew", Unusable, {})
Run = Callable[..., int]


@pytest.fixture
def brew(monkeypatch: pytest.MonkeyPatch) -> Run:
    """A command with the one verb `pour`, which returns or raises what the test says."""
    # told before the command sets it, monkeypatch takes it back after the test
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", os.environ.get("TRANSFORMERS_VERBOSITY", "error"))

    def run(*words: str, deed: Callable[[], int | None] = lambda: None) -> int:
        app = typer.Typer(add_completion=False, rich_markup_mode=None)

        @app.callback(invoke_without_command=True)
        def begin(ctx: typer.Context, debug: bool = False, show_version: bool = False) -> None:
            end_without_verb(ctx, version_wanted=show_version)
            ctx.obj.debug = debug

        @app.command()
        def pour() -> int | None:
            return deed()

        return Invocation(BREW).run(lambda: app, list(words))

    return run


def raising(error: BaseException) -> Callable[[], int | None]:
    def deed() -> int | None:
        raise error

    return deed


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (7, 7)])
def test_a_verb_that_ends_gives_the_exit_code(brew: Run, returned: int | None, code: int) -> None:
    assert brew("pour", deed=lambda: returned) == code


@pytest.mark.parametrize(
    ("error", "code"), [(Unusable("too hot"), 2), (OSError("too hot"), 1), (typer.BadParameter("too hot"), 2)]
)
def test_a_failure_is_one_line_with_the_name_of_the_program(
    brew: Run, capsys: pytest.CaptureFixture[str], error: Exception, code: int
) -> None:
    assert brew("pour", deed=raising(error)) == code
    assert (said := capsys.readouterr()).out == ""
    assert said.err.startswith("brew: error: ")
    assert "too hot" in said.err
    assert said.err.count("\n") == 1


def test_debug_shows_the_traceback_before_the_line(brew: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert brew("--debug", "pour", deed=raising(Unusable("too hot"))) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback")
    assert lines[-1] == "brew: error: too hot"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), typer.Abort()])
def test_ctrl_c_and_a_prompt_that_is_left_end_quietly_with_130(
    brew: Run, capsys: pytest.CaptureFixture[str], error: BaseException
) -> None:
    assert brew("pour", deed=raising(error)) == 130
    assert capsys.readouterr().err.strip() == ""


@pytest.mark.parametrize("error", [KeyError("x"), EOFError("Ran out of input")])
def test_unexpected_errors_are_left_to_the_entry_point(brew: Run, error: Exception) -> None:
    with pytest.raises(type(error)):
        brew("pour", deed=raising(error))


def test_without_a_verb_the_help_goes_to_stderr_and_the_version_to_stdout(
    brew: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert brew() == 2
    assert (said := capsys.readouterr()).out == ""
    assert "pour" in said.err
    assert brew("--show-version") == 0
    assert capsys.readouterr().out == version("splitlearn") + "\n"
