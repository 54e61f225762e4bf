"""What becomes of the JSON Schema test suite's schemas, of which a list is kept."""

import json
from pathlib import Path
from typing import Any

import pytest

from schemas.outcome import outcome
from schemas.suite import RESULTS, cases, downloaded

API = Path(__file__).parents[2] / "docs" / "api.md"
KEPT: list[dict[str, Any]] = [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]
REQUIRED = [each for each in KEPT if not each["file"].startswith("optional/")]
COMPILED = [each for each in REQUIRED if each["outcome"] == "compiled"]


@pytest.mark.slow
def test_the_list_is_what_becomes_of_every_schema() -> None:
    assert [outcome(case) for case in cases(downloaded())] == KEPT


def test_no_value_is_taken_that_does_not_follow_its_schema() -> None:
    assert [each for each in KEPT if "accepted" in each] == []


def test_no_value_of_the_required_schemas_is_lost_but_where_format_is_a_rule() -> None:
    assert {each["file"] for each in REQUIRED if "rejected" in each} == {"format.json"}


def test_three_quarters_of_the_required_schemas_compile_as_the_document_says() -> None:
    assert len(COMPILED) >= 0.75 * len(REQUIRED)
    assert f"{len(COMPILED)} of its {len(REQUIRED)} required schemas" in API.read_text(encoding="utf-8")


def test_every_refusal_names_a_keyword_or_says_that_no_value_follows() -> None:
    silent = [each for each in KEPT if each["outcome"] == "refused" and not each["keyword"]]
    assert {each["reason"] for each in silent} <= {"no value follows the schema"}
