from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import httpx

from splitlearn_client.app import application
from splitlearn_client.serving.origins import readable_from


async def answer_to_page(of: str, allowed: Sequence[str], method: str = "GET", **headers: str) -> httpx.Response:
    """What a page of this origin gets from /health, which needs no service."""
    app = readable_from(allowed, application(cast("Any", SimpleNamespace(tokenizer=None, check_model=None))))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        return await client.request(method, "/health", headers={"Origin": of, **headers})


async def test_pages_of_other_origins_may_ask_only_if_they_are_listed() -> None:
    page = "http://localhost:3000"
    assert "Access-Control-Allow-Origin" not in (await answer_to_page(page, ())).headers
    assert "Access-Control-Allow-Origin" not in (await answer_to_page("http://evil.example", (page,))).headers
    answer = await answer_to_page(page, (page,))
    assert answer.headers["Access-Control-Allow-Origin"] == page
    assert answer.headers["Access-Control-Expose-Headers"] == "Retry-After, X-Request-Id"
    assert (await answer_to_page(page, ("*",))).headers["Access-Control-Allow-Origin"] == "*"


async def test_a_browser_s_question_before_a_post_is_answered() -> None:
    page = "http://localhost:3000"
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    answer = await answer_to_page(page, (page,), "OPTIONS", **asked)
    assert answer.status_code == 200
    assert "POST" in answer.headers["Access-Control-Allow-Methods"]
    assert "authorization" in answer.headers["Access-Control-Allow-Headers"]
    assert (await answer_to_page(page, (), "OPTIONS", **asked)).status_code == 405
