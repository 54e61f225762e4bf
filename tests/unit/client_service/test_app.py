import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from client_service.app import application, end_tokens
from client_service.tokenizer import TextCodec
from support.tiny_models import tiny_config, tiny_tokenizer


@pytest.mark.parametrize(
    ("of_config", "of_generation", "expected"),
    [
        (2, None, {2}),
        (7, None, {2, 7}),
        ([7, 9], None, {2, 7, 9}),
        (None, None, {2}),
        (0, None, {0, 2}),
        (2, [7, 9], {2, 7, 9}),
        (None, 5, {2, 5}),
    ],
)
def test_an_answer_ends_at_the_end_tokens_of_both_configs_and_of_the_tokenizer(
    tmp_path: Path, of_config: int | list[int] | None, of_generation: int | list[int] | None, expected: set[int]
) -> None:
    tiny_tokenizer().save_pretrained(tmp_path)
    if of_generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": of_generation}))
    config = tiny_config("llama", eos_token_id=of_config)
    assert end_tokens(tmp_path, config, TextCodec(tmp_path, config)) == expected


async def answer_to_page(of: str, allowed: Sequence[str], method: str = "GET", **headers: str) -> httpx.Response:
    """What a page of this origin gets from /health, which needs no service."""
    app = application(cast("Any", None), allowed)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        return await client.request(method, "/health", headers={"Origin": of, **headers})


async def test_pages_of_other_origins_may_ask_only_if_they_are_listed() -> None:
    page = "http://localhost:3000"
    assert "Access-Control-Allow-Origin" not in (await answer_to_page(page, ())).headers
    assert "Access-Control-Allow-Origin" not in (await answer_to_page("http://evil.example", (page,))).headers
    assert (await answer_to_page(page, (page,))).headers["Access-Control-Allow-Origin"] == page
    assert (await answer_to_page(page, ("*",))).headers["Access-Control-Allow-Origin"] == "*"


async def test_a_browser_s_question_before_a_post_is_answered() -> None:
    page = "http://localhost:3000"
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    answer = await answer_to_page(page, (page,), "OPTIONS", **asked)
    assert answer.status_code == 200
    assert "POST" in answer.headers["Access-Control-Allow-Methods"]
    assert "authorization" in answer.headers["Access-Control-Allow-Headers"]
    assert (await answer_to_page(page, (), "OPTIONS", **asked)).status_code == 405
