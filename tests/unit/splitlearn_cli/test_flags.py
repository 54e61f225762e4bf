from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict
from typer.testing import CliRunner

from splitlearn_cli.errors import BadUsage
from splitlearn_cli.flags import Flag, Positional, Repeated, from_settings, parameters, settings_from


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="SPLITLEARN_BREW_", frozen=True, extra="forbid")

    weights: Path = Field(description="What to brew.")
    out: Annotated[Path, Flag("-o")] = Field(description="Where to pour.")
    metrics_port: int = Field(9101, ge=0, le=65535, description="Port of the gauge.")
    speed: float | None = Field(None, description="Turns a second.")
    roast: Literal["light", "dark"] = Field("dark", description="How long.")
    verify: bool = Field(False, description="Taste it.")
    guest: Repeated = Field((), description="Who drinks.")
    table: str = Field("here", max_length=9, description="With or without a secret behind its #.")


def invoke(*words: str, **environment: str) -> tuple[Settings | None, Any]:
    got: list[Settings] = []
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command("brew")(from_settings(Settings, got.append))
    result = CliRunner().invoke(app, list(words), env={"COLUMNS": "200", **environment})
    return (got[0] if got else None), result


class Cups(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="SPLITLEARN_CUPS_", frozen=True, extra="forbid")

    action: Literal["fill", "drain"] = Field(description="What to do.")
    cups: Annotated[Repeated, Positional()] = Field((), description="To which.")


@pytest.mark.parametrize("cups", [(), ("red",), ("red", "blue")])
def test_a_field_with_a_default_may_be_positional_too_and_be_left_out_or_repeated(cups: tuple[str, ...]) -> None:
    got: list[Cups] = []
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command("cups")(from_settings(Cups, got.append))
    assert CliRunner().invoke(app, ["fill", *cups]).exit_code == 0
    assert got == [Cups(action="fill", cups=cups)]


def test_a_required_field_is_positional_and_the_others_are_flags() -> None:
    settings, _ = invoke("beans", "--out", "cup", "--metrics-port", "7", "--speed", "1.5", "--verify")

    assert settings == Settings(weights=Path("beans"), out=Path("cup"), metrics_port=7, speed=1.5, verify=True)


def test_a_required_field_marked_as_flag_has_its_short_form() -> None:
    settings, _ = invoke("beans", "-o", "cup")

    assert settings is not None
    assert settings.out == Path("cup")
    assert settings.metrics_port == 9101


def test_every_field_is_read_from_its_environment_twin() -> None:
    settings, _ = invoke(
        SPLITLEARN_BREW_WEIGHTS="beans",
        SPLITLEARN_BREW_OUT="cup",
        SPLITLEARN_BREW_METRICS_PORT="8",
        SPLITLEARN_BREW_VERIFY="true",
    )

    assert settings == Settings(weights=Path("beans"), out=Path("cup"), metrics_port=8, verify=True)


def test_the_command_line_wins_over_the_environment() -> None:
    settings, _ = invoke(
        "beans", "-o", "cup", "--metrics-port", "7", "--no-verify",
        SPLITLEARN_BREW_METRICS_PORT="8", SPLITLEARN_BREW_VERIFY="1",
    )  # fmt: skip

    assert settings is not None
    assert (settings.metrics_port, settings.verify) == (7, False)


def test_an_empty_variable_counts_as_not_set() -> None:
    settings, _ = invoke("beans", "-o", "cup", SPLITLEARN_BREW_METRICS_PORT="", SPLITLEARN_BREW_SPEED="")

    assert settings is not None
    assert (settings.metrics_port, settings.speed) == (9101, None)


def test_the_help_shows_description_variable_default_and_choices() -> None:
    _, result = invoke("--help")

    # the runner wraps the help at 80 columns
    text = " ".join(result.output.split())
    assert "WEIGHTS" in text
    assert "What to brew. [env: SPLITLEARN_BREW_WEIGHTS; required]" in text
    assert "-o, --out PATH" in text
    assert "--metrics-port INT Port of the gauge. [env: SPLITLEARN_BREW_METRICS_PORT; default: 9101]" in text
    assert "--speed FLOAT Turns a second. [env: SPLITLEARN_BREW_SPEED]" in text
    assert "--roast light|dark How long." in text
    assert "--verify / --no-verify Taste it. [env: SPLITLEARN_BREW_VERIFY]" in text


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ({"out": "cup"}, ["WEIGHTS is missing", "SPLITLEARN_BREW_WEIGHTS", "What to brew."]),
        ({"weights": "beans"}, ["--out is missing", "SPLITLEARN_BREW_OUT"]),
        ({"weights": "b", "out": "c", "metrics_port": "70000"}, ["--metrics-port", "65535", "'70000'"]),
        ({"weights": "b", "out": "c", "metrics_port": "x"}, ["--metrics-port", "valid integer", "'x'"]),
        ({"weights": "b", "out": "c", "roast": "burnt"}, ["--roast", "'light' or 'dark'", "'burnt'"]),
    ],
)
def test_a_bad_value_is_refused_by_the_name_of_its_flag(given: dict[str, str], parts: list[str]) -> None:
    with pytest.raises(BadUsage) as caught:
        settings_from(Settings, given)

    assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_a_bad_variable_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLITLEARN_BREW_METRICS_PORT", "many")

    with pytest.raises(BadUsage, match=r"SPLITLEARN_BREW_METRICS_PORT.*'many'"):
        settings_from(Settings, {"weights": "b", "out": "c"})


def test_a_flag_may_be_repeated_and_its_variable_separates_by_spaces() -> None:
    flags, _ = invoke("beans", "-o", "cup", "--guest", "Ada", "--guest", "Grace Hopper")
    variable, _ = invoke("beans", "-o", "cup", SPLITLEARN_BREW_GUEST=" Ada  Grace ")
    neither, _ = invoke("beans", "-o", "cup")

    assert [each and each.guest for each in (flags, variable, neither)] == [
        ("Ada", "Grace Hopper"),
        ("Ada", "Grace"),
        (),
    ]


def test_the_help_of_a_flag_that_may_be_repeated_has_no_empty_default() -> None:
    _, shown = invoke("--help")

    line = next(each for each in shown.output.splitlines() if "--guest" in each)
    assert "--guest TEXT" in line
    assert line.endswith("Who drinks. [env: SPLITLEARN_BREW_GUEST]")


def test_a_switch_may_have_another_name_than_its_field() -> None:
    class Cup(BaseSettings):
        as_espresso: Annotated[bool, Flag("--espresso")] = Field(False, description="Small.")

    got: list[Cup] = []
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command("fill")(from_settings(Cup, got.append))
    for words in (["--espresso"], ["--no-espresso"], []):
        assert CliRunner().invoke(app, words).exit_code == 0

    assert [cup.as_espresso for cup in got] == [True, False, False]


class Secrets(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="SPLITLEARN_VAULT_", hide_input_in_errors=True)

    key: Annotated[SecretStr | None, Field(max_length=4)] = Field(None, description="Opens it.")


def test_a_secret_is_a_text_that_no_complaint_repeats() -> None:
    assert settings_from(Secrets, {"key": "open"}).key == SecretStr("open")
    with pytest.raises(BadUsage, match=r"--key \(or SPLITLEARN_VAULT_KEY\): ") as refused:
        settings_from(Secrets, {"key": "open sesame"})
    assert "sesame" not in f"{refused.value} {refused.value.__cause__}"
    (parameter,) = parameters(Secrets)
    assert parameter.default.metavar == "TEXT"


def test_what_is_behind_the_mark_of_an_address_is_in_no_complaint() -> None:
    with pytest.raises(BadUsage, match="--table") as refused:
        settings_from(Settings, {"weights": "beans", "out": "cup", "table": "one:1#s3cret,two:2#s3cret.more"})
    assert "s3cret" not in str(refused.value)
    assert "got 'one:1#...,two:2#...'" in str(refused.value)
