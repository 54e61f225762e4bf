"""No log line of any service has a word, a token id or a part of what was asked or answered."""

import asyncio
import json
import logging
import traceback
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from support.running_split import PATIENCE, RunningClient, RunningTrunk, running_client, running_trunk, until

WORDS = "the quick brown fox jumps over the lazy dog"
IDS = [*range(20, 60)]
# of the test's own caller
CALLER = ("httpx", "httpcore", "openai")


class Services:
    """A chain of two stages, and its client service."""

    def __init__(self, first: RunningTrunk, last: RunningTrunk, client: RunningClient) -> None:
        self.first, self.last, self.client = first, last, client
        self.answers: list[str] = []

    async def ask(self, path: str = "completions", **fields: Any) -> int:
        body = {"model": "tiny", "temperature": 0, "max_tokens": 12, **fields}
        response = await self.client.http.post(f"/v1/{path}", json=body)
        if response.status_code == 200 and not body.get("stream"):
            self.answers += [choice["text"] for choice in response.json()["choices"]]
        return response.status_code


@pytest.fixture
async def services(tiny_weights: Path) -> AsyncIterator[Services]:
    async with (
        running_trunk(tiny_weights, "2-4") as last,
        running_trunk(tiny_weights, "1-2", next=last.address) as first,
        running_client(tiny_weights, first.address, failover_timeout=0.5) as client,
    ):
        await client.ready()
        yield Services(first, last, client)


def text_of(record: logging.LogRecord) -> str:
    raised = record.exc_info[1] if record.exc_info else None
    return record.getMessage() + ("".join(traceback.format_exception(raised)) if raised else "")


async def test_what_is_asked_and_answered_is_in_no_log_however_a_request_ends(
    services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    ask = services.ask
    with caplog.at_level(logging.DEBUG), capture_logs() as lines:
        assert await ask(prompt=WORDS) == 200
        assert await ask(prompt=IDS, logprobs=3) == 200
        assert await ask(prompt=[WORDS, WORDS], stream=True) == 200
        for wrong in ({"n": 700}, {"stop": WORDS * 100}, {"model": WORDS}, {"max_tokens": WORDS}):
            assert 400 <= await ask(**{"prompt": WORDS, **wrong}) < 500
        assert 400 <= await ask("chat/completions", messages=[{"role": WORDS, "content": WORDS}]) < 500
        leaving = asyncio.create_task(ask(prompt=WORDS, max_tokens=400))
        await until(lambda: services.last.open_sessions == 1)
        leaving.cancel()
        await until(lambda: services.first.open_sessions == services.last.open_sessions == 0)
        await services.last.trunk.server.stop()
        async with asyncio.timeout(PATIENCE):
            assert await ask(prompt=WORDS) in (502, 503)
    assert {line["finish_reason"] for line in lines if line["event"] == "request finished"} == {
        "length",
        "abort",
        "error",
    }
    said = [json.dumps(line, default=repr) for line in lines]
    said += [text_of(record) for record in caplog.records if not record.name.startswith(CALLER)]
    # an answer may also come in pieces, a line each
    said += ["".join(str(line.get(name, "")) for line in lines) for name in {name for line in lines for name in line}]
    shown = "\n".join(said)
    answers = [text.strip() for text in services.answers]
    assert all(len(text) > 8 for text in answers)
    secrets = [*WORDS.split()[1:4], "lazy", ", ".join(map(str, IDS[:3])), *answers]
    secrets += [json.dumps(text)[1:-1] for text in answers]
    assert [secret for secret in secrets if secret in shown] == []
