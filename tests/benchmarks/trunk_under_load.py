"""`make bench`, second part: a trunk's memory against its layers' bytes, and its health during a long prefill."""

import asyncio
import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx

from splitlearn_comm import AsyncGRPCComputeClient
from tests.benchmarks.contenders import LAYERS, RESULTS, Split, make_weights, split_model

PROMPT = 2048
SHORT_PROMPT = 512


async def health_times(trunk: str, prefill: "asyncio.Task[object]") -> list[float]:
    """Seconds that each health request took, asked one after the other until the prefill is done."""
    times: list[float] = []
    async with AsyncGRPCComputeClient(trunk) as client:
        while not prefill.done():
            began = time.perf_counter()
            await client.health()
            times.append(time.perf_counter() - began)
            await asyncio.sleep(0.005)
    return times


async def prefill(split: Split) -> httpx.Response:
    body = {"model": split.model, "prompt": [9] * PROMPT, "max_tokens": 1, "temperature": 0}
    async with httpx.AsyncClient(base_url=split.url, timeout=300) as http:
        return await http.post("/v1/completions", json=body)


def resident_bytes(split: Split) -> float:
    lines = httpx.get(split.ports.trunk_metrics).text.splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("process_resident_memory_bytes")))


def layer_bytes(weights: Path) -> int:
    files = json.loads((weights / "manifest.json").read_text())["files"]
    first, last = map(int, LAYERS.split("-"))
    return sum(int(files[f"mid.{i:05d}"]["size"]) for i in range(first, last))


async def measure(split: Split) -> list[float]:
    asked = asyncio.create_task(prefill(split))
    times = sorted(await health_times(split.ports.trunk, asked))
    (await asked).raise_for_status()
    return times


def main() -> None:
    _, weights = make_weights()
    with split_model(weights, os.cpu_count() or 2, ["--no-enable-prefix-caching"]) as split:
        split.generate([9] * SHORT_PROMPT, 16)
        resident, layers = resident_bytes(split), layer_bytes(weights)
        times = asyncio.run(measure(split))
        after_long = resident_bytes(split)
    allowed = 1.25 * layers + 300e6
    text = (
        f"# Trunk under load, {datetime.now(UTC):%Y-%m-%d}\n\n"
        f"`make bench`: Qwen2-0.5B shape, bf16, layers {LAYERS}, {os.cpu_count()} cores shared by client, trunk and "
        "this probe.\n\n"
        f"- Health answers during a prefill of {PROMPT} tokens: median {1000 * times[len(times) // 2]:.1f} ms, "
        f"slowest {1000 * times[-1]:.1f} ms of {len(times)} (goal: 50 ms).\n"
        f"- Resident memory after a prompt of {SHORT_PROMPT}: {resident / 1e6:.0f} MB for {layers / 1e6:.0f} MB of "
        f"layers (goal: 1.25 x layers + 300 MB = {allowed / 1e6:.0f} MB).\n"
        f"- After a prompt of {PROMPT}, KV cache and activations included: {after_long / 1e6:.0f} MB.\n"
    )
    print(text)
    (RESULTS / f"trunk_under_load_{datetime.now(UTC):%Y-%m-%d}.md").write_text(text)


if __name__ == "__main__":
    main()
