from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from cleangpt.cli.options import flag, names_given, options_from, table
from cleangpt.errors import UsageError


@dataclass(frozen=True)
class _Options:
    place: Path = flag("Where.")  # noqa: RUF009
    count: int = flag("How many.", 3)
    rate: float | None = flag("How fast.", None)
    loud: bool = flag("Whether.", False)
    shape: Literal["round", "square"] = flag("Which.", "round")
    rates: tuple[float, ...] = flag("One, or several.", (1.0,))
    more: Mapping[str, Any] = table("Anything.")


@dataclass(frozen=True)
class _Watched(_Options):
    given: frozenset[str] = names_given()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "options.toml"


def test_a_file_sets_every_kind_of_value(file: Path) -> None:
    file.write_text(
        'place = "there"\ncount = 5\nrate = 2\nloud = true\nshape = "square"\nrates = [1, 0.5]\n[more]\nx = [1]\n'
    )
    expected = _Options(Path("there"), 5, 2.0, True, "square", (1.0, 0.5), {"x": [1]})
    assert options_from(_Options, {}, file) == expected


@pytest.mark.parametrize(("text", "found"), [("0.25", (0.25,)), ("1e-3,5e-4", (1e-3, 5e-4)), ("1, 2", (1.0, 2.0))])
def test_a_list_is_spelled_with_commas_and_may_be_one_value(file: Path, text: str, found: tuple[float, ...]) -> None:
    assert options_from(_Options, {"place": Path("x"), "rates": text}).rates == found
    file.write_text('place = "there"\nrates = 0.5\n')
    assert options_from(_Options, {}, file).rates == (0.5,)


@pytest.mark.parametrize("text", ["", "1,", "fast", "1;2"])
def test_a_list_that_is_none_is_refused_with_what_it_has_to_be(text: str) -> None:
    with pytest.raises(UsageError, match=r"--rates: expected FLOAT\[,FLOAT\.\.\.\], found"):
        options_from(_Options, {"place": Path("x"), "rates": text})


def test_the_command_line_wins_and_what_neither_says_is_the_default(file: Path) -> None:
    file.write_text('place = "there"\ncount = 5\n')
    found = options_from(_Options, {"count": 7, "place": None, "loud": False}, file)
    assert found == _Options(Path("there"), 7)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cuont = 1", "unknown key 'cuont'; did you mean count?"),
        ("zzz = 1", "unknown key 'zzz'; known are place, count"),
        ("count = 'six'", "count: expected INT, found 'six'"),
        ("count = true", "count: expected INT, found True"),
        ("count = 1.5", "count: expected INT, found 1.5"),
        ("rate = 'fast'", "rate: expected FLOAT"),
        ("rates = [1, 'fast']", "rates: expected FLOAT, found 'fast'"),
        ("rates = []", "rates: expected FLOAT, found []"),
        ("rates = true", "rates: expected FLOAT, found True"),
        ("place = 3", "place: expected PATH, found 3"),
        ("more = 3", "more: expected a table, found 3"),
        ("shape = 4", "shape: expected round|square"),
        ("place = 'x'\nshape = 'oval'", "expected round or square, found 'oval'"),
        ("place = ", "is not a valid TOML file"),
        ("count = 1", "--place is missing; give it on the command line, or as place in the --config file: Where."),
    ],
)
def test_a_file_that_makes_no_sense_is_refused_with_the_key_and_what_was_found(
    file: Path, text: str, said: str
) -> None:
    file.write_text(text)
    with pytest.raises(UsageError) as refused:
        options_from(_Options, {}, file)
    assert said in str(refused.value)


@dataclass(frozen=True)
class _Named:
    first_words: str = flag("What.", document="first_name_or_path")


@pytest.mark.parametrize("key", ["first_words", "first-words", "first_name_or_path", "first-name-or-path"])
def test_a_key_is_a_flag_s_name_or_the_document_s_with_dashes_or_underscores(file: Path, key: str) -> None:
    file.write_text(f'{key} = "x"\n')
    assert options_from(_Named, {}, file) == _Named("x")


def test_what_was_given_is_told_from_defaults_even_where_it_equals_them(file: Path) -> None:
    file.write_text('place = "there"\nrate = 2\n')
    assert options_from(_Watched, {"count": 3, "loud": None}, file).given == {"place", "rate", "count"}
    file.write_text('given = ["count"]\n')
    with pytest.raises(UsageError, match="unknown key 'given'"):
        options_from(_Watched, {}, file)
