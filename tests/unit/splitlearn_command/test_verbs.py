from collections.abc import Callable
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from splitlearn_command.extras import MissingExtra
from splitlearn_command.verbs import Verb, VerbGroup

called: list[str] = []


def grind(beans: str, coarse: bool = False, water_jug: str = "none") -> int:
    """As fine as salt unless told otherwise."""
    called.append(f"{beans} {coarse} {water_jug}")
    return 0


def steam() -> None:
    """The module is missed while it works, not when it is imported.

    Milk that was hot once
    is not made hot again.
    """
    missing_module()


def missing_module() -> Any:
    raise ModuleNotFoundError("No module named 'nozzle'", name="nozzle")


class Kitchen(VerbGroup):
    verbs = {  # noqa: RUF012 - a constant of the test
        "grind": Verb("Make powder of beans."),
        "broken": Verb("Is never imported."),
        "froth": Verb("Put air into milk.", "frother"),
        "steam": Verb("Make milk hot.", "frother"),
    }

    @classmethod
    def function_of(cls, name: str) -> Callable[..., int | None]:
        called.append(name)
        return {"grind": grind, "steam": steam}[name] if name != "froth" else missing_module()


@pytest.fixture
def kitchen() -> typer.Typer:
    called.clear()
    app = typer.Typer(cls=Kitchen, add_completion=False, rich_markup_mode=None)
    app.callback()(lambda: None)
    return app


def test_listing_the_verbs_asks_for_none_of_them(kitchen: typer.Typer) -> None:
    shown = CliRunner().invoke(kitchen, ["--help"])

    assert shown.exit_code == 0
    lines = [line.split(maxsplit=1) for line in shown.output.splitlines()]
    assert all([name, verb.line] in lines for name, verb in Kitchen.verbs.items())
    assert called == []


def test_all_paragraphs_of_a_verbs_help_begin_in_one_column(kitchen: typer.Typer) -> None:
    lines = CliRunner().invoke(kitchen, ["steam", "--help"]).output.splitlines()

    assert "  Milk that was hot once is not made hot again." in lines


def test_a_called_verb_is_found_once_and_gets_its_flags(kitchen: typer.Typer) -> None:
    done = CliRunner().invoke(kitchen, ["grind", "arabica", "--coarse"])

    assert done.exit_code == 0, done.output
    assert called == ["grind", "arabica True none"]


@pytest.mark.parametrize("flag", ["--water-jug", "--water_jug"])
def test_a_flag_may_be_typed_with_underscores_and_values_stay_as_they_are(kitchen: typer.Typer, flag: str) -> None:
    for words in ([flag, "the_big-one"], [f"{flag}=the_big-one"]):
        called.clear()
        done = CliRunner().invoke(kitchen, ["grind", "light_roast", *words])
        assert done.exit_code == 0, done.output
        assert called[-1] == "light_roast False the_big-one"


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_the_help_of_a_verb_is_its_line_and_the_docstring(kitchen: typer.Typer, flag: str) -> None:
    shown = CliRunner().invoke(kitchen, ["grind", flag])

    assert "Make powder of beans." in shown.output
    assert "As fine as salt unless told otherwise." in shown.output
    assert "--coarse" in shown.output


def test_an_unknown_verb_is_wrong_usage_and_imports_nothing(kitchen: typer.Typer) -> None:
    done = CliRunner().invoke(kitchen, ["gring"])

    assert done.exit_code == 2
    assert called == []


@pytest.mark.parametrize("verb", ["froth", "steam"])
def test_a_verb_whose_extra_is_not_installed_says_what_installs_it(
    kitchen: typer.Typer, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.setattr("splitlearn_command.extras.requires", lambda _: ['no-such-nozzle>=1; extra == "frother"'])

    error = CliRunner().invoke(kitchen, [verb]).exception

    assert isinstance(error, MissingExtra)
    assert str(error) == 'this needs the package no-such-nozzle: pip install "splitlearn[frother]"'


@pytest.mark.parametrize("verb", ["froth", "steam"])
def test_a_module_that_no_extra_brings_is_not_promised_by_one(
    kitchen: typer.Typer, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.setattr("splitlearn_command.extras.requires", lambda _: ['pytest>=1; extra == "frother"'])

    assert isinstance(CliRunner().invoke(kitchen, [verb]).exception, ModuleNotFoundError)
