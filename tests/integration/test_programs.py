"""What other people's programs send, over a real trunk.

requests_of_programs.jsonl holds requests as the programs made them: langchain-openai's `OpenAI` and `ChatOpenAI` by
`invoke`, `batch` and `stream` against a server that wrote them down; guidellm's and lm-evaluation-harness's bodies as
their own code puts them together for a text of the user's.
"""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, BadRequestError
from structlog.testing import capture_logs

from splitlearn_client.api.prompt_fields import MOST_PROMPTS
from support.running_split import RunningClient, Split, until
from support.tiny_models import CONTEXT, tiny_tokenizer

REQUESTS = [
    json.loads(line)
    for line in Path(__file__).with_name("requests_of_programs.jsonl").read_text(encoding="utf-8").splitlines()
]
PROMPTS = ["the quick", "brown fox jumps", "over"]
TOKENIZER = tiny_tokenizer()


def name(request: dict[str, Any]) -> str:
    return f"{request['program']} {request['path']}"


@pytest.fixture
def openai(split: Split) -> AsyncOpenAI:
    return split.client.openai


async def test_what_programs_send_is_answered(split: Split) -> None:
    for request in REQUESTS:
        response = await split.client.http.post(request["path"], json=request["body"])
        assert response.status_code == 200, f"{name(request)}: {response.text}"
        if request["body"].get("stream"):
            assert response.text.endswith("data: [DONE]\n\n")
        else:
            prompt = request["body"].get("prompt")
            assert len(response.json()["choices"]) == (len(prompt) if isinstance(prompt, list) else 1)


# --- several prompts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ids", [False, True])
async def test_each_prompt_of_a_list_is_answered_as_it_would_be_alone(openai: AsyncOpenAI, ids: bool) -> None:
    asked: dict[str, Any] = {"model": "tiny", "max_tokens": 8, "temperature": 0.9, "seed": 4, "logprobs": 1}
    prompts: Any = [TOKENIZER.encode(prompt) for prompt in PROMPTS] if ids else PROMPTS
    alone = [await openai.completions.create(prompt=prompt, **asked) for prompt in PROMPTS]
    together = await openai.completions.create(prompt=prompts, **asked)
    assert [choice.index for choice in together.choices] == [0, 1, 2]
    for choice, single in zip(together.choices, alone, strict=True):
        assert (choice.text, choice.finish_reason) == (single.choices[0].text, single.choices[0].finish_reason)
        assert choice.logprobs is not None
        assert single.choices[0].logprobs is not None
        assert choice.logprobs.tokens == single.choices[0].logprobs.tokens
    assert together.usage is not None
    for count in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert getattr(together.usage, count) == sum(getattr(single.usage, count) for single in alone)


async def test_a_stream_of_several_prompts_gives_each_choice_its_text_and_its_end(openai: AsyncOpenAI) -> None:
    asked: dict[str, Any] = {"model": "tiny", "prompt": PROMPTS, "max_tokens": 6, "temperature": 0}
    whole = await openai.completions.create(**asked)
    texts, ends, usage = [""] * len(PROMPTS), [0] * len(PROMPTS), None
    async for chunk in await openai.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            ends[choice.index] += choice.finish_reason is not None
        usage = chunk.usage or usage
    assert texts == [choice.text for choice in whole.choices]
    assert ends == [1, 1, 1]
    assert usage is not None
    assert whole.usage is not None
    assert usage.total_tokens == whole.usage.total_tokens


async def test_a_list_of_one_prompt_is_that_prompt(openai: AsyncOpenAI) -> None:
    asked: dict[str, Any] = {"model": "tiny", "max_tokens": 5, "temperature": 0}
    ids = TOKENIZER.encode("the quick")
    prompts: list[Any] = ["the quick", ["the quick"], ids, [ids]]
    answers = [await openai.completions.create(prompt=prompt, **asked) for prompt in prompts]
    assert len({answer.choices[0].text for answer in answers}) == 1
    assert [len(answer.choices) for answer in answers] == [1] * 4


REFUSED_PROMPTS: list[tuple[Any, str, str]] = [
    (["x"] * (MOST_PROMPTS + 1), "prompt", "at most 128"),
    (["x", ""], "prompt.1", "at least 1"),
    ([[5], [5, 10**6]], "prompt.1", "token id 1000000 does not exist"),
    ([[5], [-1]], "prompt.1", "token id -1 does not exist"),
    ([5, 10**6], "prompt", "token id 1000000 does not exist"),
    ([[5], [5] * CONTEXT], "prompt.1", "context"),
    ([[5] * CONTEXT, [5]], "prompt.0", "context"),
    ([5] * CONTEXT, "prompt", "context"),
]


@pytest.mark.parametrize("stream", [False, True])
async def test_one_prompt_that_cannot_be_answered_is_named_before_any_is_run(split: Split, stream: bool) -> None:
    for prompt, param, words in REFUSED_PROMPTS:
        with pytest.raises(BadRequestError, match=words) as refused:
            await split.client.openai.completions.create(model="tiny", prompt=prompt, stream=stream)
        assert refused.value.param == param
    assert split.trunk.value("sessions_total") == 0


async def test_usage_so_far_is_in_every_chunk_if_requested(openai: AsyncOpenAI) -> None:
    options: Any = {"include_usage": True, "continuous_usage_stats": True}
    stream = await openai.completions.create(
        model="tiny", prompt=PROMPTS[:2], max_tokens=3, temperature=0, stream=True, stream_options=options
    )
    spent = [chunk.usage.completion_tokens async for chunk in stream if chunk.usage is not None]
    assert spent == [1, 2, 3, 4, 5, 6, 6]


# --- conversations ---------------------------------------------------------------------------------------------------


async def test_an_answer_is_sent_back_as_the_package_holds_it(openai: AsyncOpenAI) -> None:
    question: dict[str, Any] = {"role": "user", "content": "who jumps?"}
    asked: dict[str, Any] = {"model": "tiny", "max_tokens": 4, "temperature": 0}
    said = (await openai.chat.completions.create(messages=[question], **asked)).choices[0].message  # type: ignore[list-item]
    plain = {"role": "assistant", "content": said.content}
    returned: list[Any] = [said, said.model_dump(), said.to_dict(), {**said.to_dict(), "tool_calls": []}, plain]
    answers = [
        (await openai.chat.completions.create(messages=[question, each, question], **asked)).choices[0].message.content
        for each in returned
    ]
    assert len(set(answers)) == 1


# --- the connection --------------------------------------------------------------------------------------------------


def connection_of(response: httpx.Response) -> Any:
    return response.extensions["network_stream"].get_extra_info("client_addr")


async def test_after_a_fault_the_connection_serves_the_next_request_and_the_log_has_it_once(
    split: Split, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = split.client
    before = await client.http.get("/health")
    with monkeypatch.context() as broken, capture_logs() as logs:
        broken.setattr(client.service.tokenizer, "tokenize", 1)
        failed = await client.complete(prompt="x")
    assert failed.status_code == 500
    assert failed.json()["error"]["code"] == "internal_error"
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["request failed"]
    assert not [record for record in caplog.records if record.name.startswith("uvicorn")]
    after = await client.complete(prompt="x", max_tokens=2)
    assert after.status_code == 200
    assert connection_of(before) == connection_of(failed) == connection_of(after)


async def test_head_is_answered_as_get_without_the_body(split: Split) -> None:
    for path in ("/health", "/ready", "/metrics", "/v1/models", "/v1/models/tiny", "/"):
        got, asked = await split.client.http.get(path), await split.client.http.head(path)
        assert asked.status_code == got.status_code == 200
        assert asked.headers["Content-Type"] == got.headers["Content-Type"]
        assert asked.content == b""
    assert (await split.client.http.head("/v1/models/other")).status_code == 404


async def test_a_method_that_is_not_taken_is_answered_with_those_that_are(split: Split) -> None:
    wrong = await split.client.http.get("/v1/completions")
    assert (wrong.status_code, wrong.headers["Allow"]) == (405, "POST")
    wrong = await split.client.http.delete("/health")
    assert wrong.status_code == 405
    assert wrong.headers["Allow"] == "GET, HEAD"
    wrong = await split.client.http.put("/v1/responses/x")
    assert (wrong.status_code, wrong.headers["Allow"]) == (405, "DELETE, GET, HEAD")


async def raw_error(client: RunningClient, body: bytes, kind: str = "application/json") -> dict[str, Any]:
    response = await client.http.post("/v1/completions", content=body, headers={"Content-Type": kind})
    assert response.status_code == 400, response.text
    error: dict[str, Any] = response.json()["error"]
    return error


async def test_an_unreadable_body_gets_an_error_and_the_service_continues(split: Split) -> None:
    for body in (b"", b"{", b"\xff", b'{"a": NaN}', b"[" * 10_000, b"[1]", b"9" * 10_000, b'{"a": 1, "a": 1}', b"null"):
        assert (await raw_error(split.client, body))["code"] == "invalid_json"
    assert (await raw_error(split.client, b"{}", "text/plain"))["code"] == "invalid_json"
    assert (await raw_error(split.client, b"{}", "application/json; charset=utf-16"))["code"] == "invalid_json"
    for field in ('"prompt": "\\ud83d"', '"prompt": "x", "stop": ["\\udc00"]', '"prompt": "x", "user": "\\udfff"'):
        error = await raw_error(split.client, b'{"model": "tiny", ' + field.encode() + b"}")
        assert error["param"] in ("prompt", "stop.0", "user")
    assert (await raw_error(split.client, b'{"model": "\\ud800", "prompt": "x"}'))["param"] == "model"
    assert (await split.client.complete(prompt="a\x00b", max_tokens=1)).status_code == 200


async def test_a_disconnect_cancels_the_remaining_prompts(split: Split) -> None:
    stream = await split.client.openai.completions.create(
        model="tiny", prompt=PROMPTS * 20, max_tokens=CONTEXT // 2, temperature=0, stream=True
    )
    await anext(aiter(stream))
    await stream.close()
    await until(lambda: not split.trunk.open_sessions and not split.client.value("num_requests_running"))
    assert (await split.client.complete(prompt="x", max_tokens=2)).status_code == 200
    assert split.trunk.value("sessions_total") == 2
