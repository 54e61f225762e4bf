"""Agents' loops of other people's packages, with a model that decides by itself when it calls a tool.

What the tools return is drawn anew each time, and no model could know it: an answer that has it was made from it.
"""

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.clients.agent_model.accuracy import WEIGHTS
from tests.clients.conftest import Plain
from tests.clients.environments import AGREEING

pytestmark = pytest.mark.slow

# the wordings of the first and the third the model never saw
QUESTIONS = [
    ["Could you tell me how warm it is in Oslo?"],
    ["What is the weather in Rome and in Lima?"],
    ["Please look up the status of parcel 90817.", "What is the capital of Peru?"],
    ["Hello"],
]


@pytest.fixture
def weights() -> Path:
    return WEIGHTS


def drawn() -> dict[str, dict[str, Any]]:
    """What each tool returns of each argument that it may be called with."""
    degrees = random.sample(range(1000, 10_000), 3)
    skies = random.sample(("hail", "thunder", "sunshine", "drizzle"), 3)
    weather = {
        city: {"celsius": number, "sky": sky}
        for city, number, sky in zip(("Oslo", "Rome", "Lima"), degrees, skies, strict=True)
    }
    return {"get_weather": weather, "track_parcel": {"90817": {"place": "Cairo", "days": random.randrange(100, 1000)}}}


@pytest.mark.parametrize("program", ["agent_of_openai.py", "agent_of_langchain.py"])
async def test_an_agent_calls_the_tools_that_a_question_needs_and_answers_with_what_they_return(
    plain: Plain, program: str
) -> None:
    AGREEING.make()
    results = drawn()
    variables = {"URL": plain.url, "QUESTIONS": json.dumps(QUESTIONS), "RESULTS": json.dumps(results)}
    # in a thread, as the trunk serves in this process
    for found in await asyncio.to_thread(AGREEING.ask, program, **variables):
        warmth, two_cities, parcel, greeting = found
        assert warmth["called"] == [[["get_weather", {"city": "Oslo"}]]]
        _tells(warmth["answers"][0], results["get_weather"]["Oslo"])
        assert two_cities["called"] == [[["get_weather", {"city": "Rome"}], ["get_weather", {"city": "Lima"}]]]
        for city in ("Rome", "Lima"):
            _tells(two_cities["answers"][0], results["get_weather"][city])
        # what needs no tool is answered without one, behind an answer that needed one too
        assert parcel["called"] == [[["track_parcel", {"number": "90817"}]], []]
        _tells(parcel["answers"][0], results["track_parcel"]["90817"])
        assert parcel["answers"][1] == "The capital of Peru is Lima."
        assert greeting["called"] == [[]]
        assert greeting["answers"][0].startswith("Hello!")


def _tells(answer: str, result: dict[str, Any]) -> None:
    assert all(str(value) in answer for value in result.values())
