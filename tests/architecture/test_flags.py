"""Flags of both commands: spelled one way, and one word for one meaning."""

from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command

from cleangpt.cli.__main__ import _app as cleangpt
from splitlearn_cli.command import command as splitlearn


def flags() -> Iterator[tuple[str, str, list[str]]]:
    """Verb, meaning and spellings: a flag's meaning is the name of what it sets."""
    for program, app in (("splitlearn", splitlearn()), ("cleangpt", cleangpt())):
        group: Any = get_command(app)
        for verb in group.verbs:
            for each in group._command(verb).params:
                if each.param_type_name == "option":
                    yield f"{program} {verb}", each.name, [*each.opts, *each.secondary_opts]


def test_every_flag_is_spelled_with_dashes() -> None:
    wrong = [f"{verb} {spelling}" for verb, _, spellings in flags() for spelling in spellings if "_" in spelling]
    assert not wrong


def test_what_means_the_same_has_the_same_first_name_in_every_verb_of_both_commands() -> None:
    # the right-hand word is what a field is called where its flag is not
    same = {"max_new_tokens": "max_tokens", "json_file": "json"}
    names: dict[str, set[str]] = {}
    for _, meaning, spellings in flags():
        longs = [spelling for spelling in spellings if spelling.startswith("--")]
        names.setdefault(same.get(meaning, meaning), set()).add(longs[0])
    assert {meaning: found for meaning, found in names.items() if len(found) > 1} == {}


@pytest.mark.parametrize(
    ("verb", "wanted"),
    [
        ("splitlearn convert", {"--out"}),
        ("cleangpt train", {"--out", "--data", "--column", "--max-samples"}),
        ("cleangpt distill", {"--out", "--data", "--column", "--max-samples", "--teacher", "--trunk", "--layers"}),
        ("cleangpt evaluate", {"--data", "--column", "--max-samples", "--teacher", "--trunk", "--layers", "--json"}),
        ("splitlearn bench", {"--json", "--plot"}),
        ("splitlearn generate", {"--max-tokens", "--temperature", "--seed"}),
        ("cleangpt generate", {"--max-tokens", "--temperature", "--seed", "--device"}),
    ],
)
def test_verbs_that_do_alike_take_alike_flags(verb: str, wanted: set[str]) -> None:
    assert wanted <= {spelling for each, _, spellings in flags() if each == verb for spelling in spellings}
