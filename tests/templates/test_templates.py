"""What becomes of published chat templates, of which a list is kept."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from templates.outcome import outcome
from templates.published import RESULTS, downloaded

API = Path(__file__).parents[2] / "docs" / "api.md"
KEPT: list[dict[str, Any]] = [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]
READ = [each for each in KEPT if each.get("read")]


@pytest.mark.slow
def test_the_list_is_what_becomes_of_every_template() -> None:
    assert [outcome(file) for file in downloaded()] == KEPT


def test_what_a_template_writes_for_a_call_is_read_as_that_call_wherever_its_form_is_known() -> None:
    assert [each for each in KEPT if each.get("read") is False] == []


def test_every_template_that_does_not_render_a_call_and_its_result_says_why() -> None:
    assert all(each["outcome"] == "rendered" or each["reason"] for each in KEPT)


@pytest.mark.parametrize(
    ("beginning", "form"),
    [
        ("Qwen", "Hermes"),
        ("NousResearch-Hermes", "Hermes"),
        ("GLM", "Hermes"),
        ("meta-llama", "Llama3"),
        ("mistralai", "Mistral"),
        ("google-gemma-4", "Gemma"),
        ("openai-gpt-oss", "Harmony"),
        ("deepseek-ai-DeepSeek-R1", "DeepSeek"),
        ("deepseek-ai-DeepSeek-V3.1", "DeepSeek"),
        # forms that are not known, of which some share markers with others
        ("deepseek-ai-DeepSeek-V4", None),
        ("CohereForAI", None),
        ("MiniMax-M", None),
        ("meetkai-functionary", None),
        ("unsloth-Apriel", None),
    ],
)
def test_the_form_of_a_family_is_seen_in_its_template(beginning: str, form: str | None) -> None:
    assert {each["calls"] for each in KEPT if each["template"].startswith(beginning)} == {form}


def test_the_document_says_how_many_templates_there_are_and_of_how_many_calls_are_read() -> None:
    outcomes = Counter(each["outcome"] for each in KEPT)
    said = f"{outcomes['rendered']} of {len(KEPT)} published templates"
    text = " ".join(API.read_text(encoding="utf-8").split())
    assert said in text
    assert f"calls of {len(READ)} of them are read" in text
