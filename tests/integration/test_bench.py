"""`splitlearn bench` as a process of its own against the real split: what it reports is what the service counted."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from support.running_split import Split

REQUESTS, WARMUP, PROMPT, OUTPUT = 6, 2, 9, 5
LEVELS = (1, 3)


async def bench(split: Split, out: Path, *words: str) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "splitlearn_cli", "bench", "--url", str(split.client.http.base_url)),
        *("--num-prompts", str(REQUESTS), "--num-warmups", str(WARMUP), "--json", str(out), *words),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    shown, complaints = await process.communicate()
    assert process.returncode == 0, complaints.decode()
    assert b"first token" in shown
    body: dict[str, Any] = json.loads(await asyncio.to_thread(out.read_text))
    return body


async def test_the_tokens_reported_are_those_that_the_service_counted(split: Split, tmp_path: Path) -> None:
    levels = ",".join(map(str, LEVELS))
    lengths = ("--prompt-kind", "ids", "--prompt-tokens", str(PROMPT), "--output-tokens", "5")
    words = ("--max-concurrency", levels, *lengths)

    body = await bench(split, tmp_path / "out.json", *words)

    assert body["model"] == "tiny"
    requests = [request for level in body["levels"] for request in level["requests"]]
    assert len(requests) == len(LEVELS) * REQUESTS
    assert all(request["failure"] is None for request in requests)
    assert all(request["prompt_tokens"] == PROMPT for request in requests)
    assert all(1 <= request["output_tokens"] <= OUTPUT for request in requests)
    assert all(request["ttft"] is None or 0 < request["ttft"] <= request["e2e"] for request in requests)
    # the service also saw the warm-up, whose tokens are not reported
    sent = len(requests) + len(LEVELS) * WARMUP
    assert split.client.value("prompt_tokens_total") == PROMPT * sent
    reported = sum(request["output_tokens"] for request in requests)
    counted = split.client.value("generation_tokens_total")
    assert reported + len(LEVELS) * WARMUP <= counted <= reported + len(LEVELS) * WARMUP * OUTPUT


async def test_chat_at_a_rate_is_answered_too(split: Split, tmp_path: Path) -> None:
    words = ("--api", "chat", "--request-rate", "50", "--prompt-tokens", "4-8", "--output-tokens", "2-4")

    body = await bench(split, tmp_path / "out.json", *words)

    (level,) = body["levels"]
    assert level["load"] == {"kind": "rate", "value": 50.0}
    assert level["summary"]["answered"] == REQUESTS
    assert all(request["output_tokens"] <= request["max_tokens"] for request in level["requests"])
    assert level["summary"]["greatest_lag"] >= 0
