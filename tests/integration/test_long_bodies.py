"""Many bodies of very many values at once, beside another caller."""

import asyncio
import json
from pathlib import Path

from support.running_split import free_port, running_client

JSON = {"Content-Type": "application/json"}


async def test_others_have_their_turns_between_bodies_of_very_many_values(tiny_weights: Path) -> None:
    body = json.dumps({"model": "tiny", "prompt": "x", **{f"x{i}": i for i in range(20_000)}}).encode()
    n_turns = 0
    async with running_client(tiny_weights, f"127.0.0.1:{free_port()}") as running:
        send = running.http.post
        asked = [asyncio.create_task(send("/v1/completions", content=body, headers=JSON)) for _ in range(16)]
        while not all(each.done() for each in asked):
            assert (await running.http.get("/health")).status_code == 200
            n_turns += 1
    assert [each.result().json()["error"]["param"] for each in asked] == ["x0"] * 16
    # in the rests, which take as long as the bodies do
    assert n_turns > len(asked) / 2
