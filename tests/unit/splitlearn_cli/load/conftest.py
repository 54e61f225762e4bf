"""A scripted endpoint for each test."""

from collections.abc import Iterator

import pytest

from support.scripted_openai import ScriptedOpenAI, scripted_openai


@pytest.fixture
def openai() -> Iterator[ScriptedOpenAI]:
    with scripted_openai() as endpoint:
        yield endpoint
