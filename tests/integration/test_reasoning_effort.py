"""How much the model shall think, in all dialects: it reaches the chat template, and the service says so."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.staged_service import staged
from support.tool_templates import Family

READS_EFFORT = Family(
    "effort: {{ reasoning_effort | default('unset') }}\n"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
)
MESSAGES = [{"role": "user", "content": "hi"}]
DIALECTS: dict[str, tuple[dict[str, Any], Callable[[str], dict[str, Any]]]] = {
    "/v1/chat/completions": ({"messages": MESSAGES}, lambda effort: {"reasoning_effort": effort}),
    "/v1/responses": ({"input": "hi"}, lambda effort: {"reasoning": {"effort": effort}}),
    "/v1/messages": ({"messages": MESSAGES, "max_tokens": 4}, lambda effort: {"output_config": {"effort": effort}}),
}


@pytest.mark.parametrize("path", DIALECTS)
async def test_a_template_that_reads_the_effort_gets_it_in_each_dialect(tmp_path: Path, path: str) -> None:
    question, asking = DIALECTS[path]
    async with staged(tmp_path, READS_EFFORT) as stage:
        prompts = []
        for fields in ({}, asking("low"), asking("none")):
            reply = await stage.http.post(path, json={"model": "tiny", **question, **fields})
            assert reply.status_code == 200, reply.text
            prompts.append(stage.tokenizer.decode(stage.script.asked[-1].prompt).partition("\n")[0])
    assert prompts == ["effort: unset", "effort: low", "effort: none"]


@pytest.mark.parametrize(
    ("asked", "effort"), [({}, None), ({"reasoning": {"effort": "low", "summary": "auto"}}, "low")]
)
async def test_a_response_repeats_its_effort_whole_and_streamed(
    tmp_path: Path, asked: dict[str, Any], effort: str | None
) -> None:
    body = {"model": "tiny", "input": "hi", **asked}
    async with staged(tmp_path, READS_EFFORT) as stage:
        whole = (await stage.http.post("/v1/responses", json=body)).json()
        streamed = await stage.http.post("/v1/responses", json={**body, "stream": True})
    events = [json.loads(line[6:]) for line in streamed.text.splitlines() if line.startswith("data: {")]
    told = [event["response"]["reasoning"] for event in events if "response" in event]
    assert [whole["reasoning"], *told] == [{"effort": effort, "summary": None}] * 4
