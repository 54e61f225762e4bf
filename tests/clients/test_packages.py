"""Packages that people use, in processes of their own and with the versions of the lock files."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.clients.conftest import Plain
from tests.clients.environments import AGREEING, INSTRUCTOR

pytestmark = pytest.mark.slow

# of a text that was cut off, each once in a row
KINDS = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.incomplete",
]


@pytest.fixture(scope="module", autouse=True)
def _made() -> None:
    AGREEING.make()


async def said(plain: Plain, program: str) -> Any:
    # in a thread, as the trunk serves in this process
    return await asyncio.to_thread(AGREEING.ask, program, URL=plain.url)


async def test_openai(plain: Plain) -> None:
    text = await plain.chat("hello")
    assert await said(plain, "with_openai.py") == {
        "models": ["tiny"],
        "text": text,
        "logprobs": 8,
        "streamed": text,
        "usage": [8, 8],
        "dimensions": [64, 64],
        "same": True,
        "indices": [0, 1, 2, 3],
        "refused": "the model 'another' is not served here; this service has 'tiny'",
        "response": [text, 8, "max_output_tokens"],
        "told": [text, KINDS],
        "chained": [True, True],
        "forgotten": "response_not_found",
    }


async def test_langchain(plain: Plain) -> None:
    text, completion = await plain.chat("hello"), await plain.completion("the quick")
    assert await said(plain, "with_langchain.py") == {
        "text": text,
        "tokens": 8,
        "streamed": text,
        "batch": [text, text],
        "plain": completion,
        "plain_batch": [completion, completion],
    }


async def test_litellm(plain: Plain) -> None:
    text = await plain.chat("hello")
    found = await said(plain, "with_litellm.py")
    assert "this service has 'tiny'" in found.pop("refused")
    assert found == {"text": text, "tokens": 8, "streamed": text, "plain": await plain.completion("the quick")}


async def test_pydantic_ai(plain: Plain) -> None:
    text = await plain.chat("hello")
    assert await said(plain, "with_pydantic_ai.py") == {"text": text, "streamed": text}


async def test_llm_by_its_command(plain: Plain, tmp_path: Path) -> None:
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- {{model_id: ours, model_name: tiny, api_base: '{plain.url}/v1'}}\n", encoding="utf-8"
    )
    asked = ["-m", "llm", "-m", "ours", "-o", "temperature", "0", "-o", "max_tokens", "8", "hello"]
    text = await plain.chat("hello")
    for flags in ([], ["--no-stream"]):
        found = await asyncio.to_thread(
            AGREEING.run, [*asked, *flags], LLM_USER_PATH=str(tmp_path), OPENAI_API_KEY="none"
        )
        assert found == f"{text}\n"


async def test_pydantic_models_are_filled_in_by_schema(plain: Plain) -> None:
    assert await said(plain, "with_schemas.py") == [["Verdict", True, "bool"]] * 3


async def test_instructor(plain: Plain) -> None:
    INSTRUCTOR.make()
    found = await asyncio.to_thread(INSTRUCTOR.ask, "with_instructor.py", URL=plain.url)
    assert found["kind"] == "Visit"
    assert found["days"] in range(1, 10)
    assert found["by_train"] in (True, False)
