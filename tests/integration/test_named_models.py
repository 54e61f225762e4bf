"""A model by its name on both ends, as commands, with HF_ENDPOINT at a hub on loopback."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from transformers import PreTrainedModel

from splitlearn.hub.opening import MOST_BESIDE
from support.loopback_hub import Asked, Fault, LoopbackHub, loopback_hub
from support.running_split import PATIENCE, running_client, running_split, until
from support.tiny_models import save_checkpoint

ASK: dict[str, Any] = {"prompt": "the quick brown", "max_tokens": 24, "temperature": 0, "model": "tiny"}
QUICK = ("--threads", "1", "--port", "0")
TRUNK = ("trunk", "org/tiny", "--layers", "1-4", "--metrics-port", "0", *QUICK)
Line = dict[str, Any]


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    with loopback_hub() as served:
        yield served


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_llama: PreTrainedModel) -> Path:
    """What `tiny_weights` was converted from, in a folder of its name."""
    return save_checkpoint(tmp_path_factory.mktemp("named") / "tiny", tiny_llama)


def environment(hub: LoopbackHub, **variables: str) -> dict[str, str]:
    online = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0"}
    return {**os.environ, "OMP_NUM_THREADS": "1", **online, **variables}


@asynccontextmanager
async def command(variables: dict[str, str], *words: object) -> AsyncIterator[AsyncIterator[Line]]:
    """A command's log, line by line; it is killed at the end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "splitlearn_cli", "--log-format", "json", *map(str, words)),
        env=variables,
        stderr=asyncio.subprocess.PIPE,
    )

    async def lines() -> AsyncIterator[Line]:
        assert process.stderr is not None
        async for line in process.stderr:
            text = line.decode()
            yield json.loads(text) if text.startswith("{") else {"event": "end", "text": text}

    try:
        yield lines()
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


def names_in(cache: Path) -> set[str]:
    return {path.name for path in cache.rglob("*")}


def layers_in(cache: Path) -> set[str]:
    return {path.name for path in cache.glob("models/*/*/*/*/weights/*.safetensors")}


async def line_with(lines: AsyncIterator[Line], event: str) -> Line:
    before = []
    async for line in lines:
        if line["event"] == event:
            return line
        before.append(line)
    raise AssertionError(f"no {event!r} in {before}")


async def ask(address: str) -> Any:
    async with httpx.AsyncClient(base_url=f"http://{address}", timeout=PATIENCE, trust_env=False) as http:
        return (await http.post("/v1/completions", json=ASK)).json()["choices"]


async def test_each_end_fetches_its_own_bytes_and_the_tokens_are_those_of_a_converted_directory(
    hub: LoopbackHub, checkpoint: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    async with running_split(tiny_weights, "1-4") as split:
        expected = (await split.client.complete(**ASK)).json()["choices"]
    hub.add("org/tiny", checkpoint)
    env = environment(hub)
    async with command(env, *TRUNK, "--cache-dir", tmp_path / "trunk") as trunk:
        address = (await line_with(trunk, "serving"))["address"]
        trunks = hub.tensor_bytes()
        assert hub.count_beside() < MOST_BESIDE
        words = ("client", "org/tiny", "--trunk", address, "--cache-dir", tmp_path / "client", *QUICK)
        async with command(env, *words) as client:
            serving = await line_with(client, "serving")
            assert await ask(serving["address"]) == expected
    assert hub.count_beside() < 2 * MOST_BESIDE
    whole = hub.tensor_bytes()["model.safetensors"]
    header = (checkpoint / "model.safetensors").read_bytes()[:8]
    size = (checkpoint / "model.safetensors").stat().st_size - 8 - int.from_bytes(header, "little")
    # nothing twice: what the client fetched is what the trunk did not
    assert (len(whole), hub.count_tensor_bytes()) == (size, size)
    # and the hub was told of nothing else
    told = {asked.path for asked in hub.asked if asked.server == "hub" and "/org/tiny/" not in asked.path}
    assert told == set()
    assert layers_in(tmp_path / "trunk") == {f"mid.0000{i}.safetensors" for i in (1, 2, 3)}
    assert len(trunks["model.safetensors"]) < size
    assert "tokenizer.json" not in names_in(tmp_path / "trunk")


async def test_offline_both_ends_start_from_the_cache_and_what_is_missing_is_one_line(
    hub: LoopbackHub, checkpoint: Path, tmp_path: Path
) -> None:
    hub.add("org/tiny", checkpoint)
    async with command(environment(hub), *TRUNK, "--cache-dir", tmp_path) as trunk:
        fingerprint = (await line_with(trunk, "serving"))["fingerprint"]
    offline = environment(hub, HF_HUB_OFFLINE="1")
    hub.forget()
    async with command(offline, *TRUNK, "--cache-dir", tmp_path) as trunk:
        assert (await line_with(trunk, "serving"))["fingerprint"] == fingerprint
    async with command(offline, *TRUNK, "--cache-dir", tmp_path / "other") as trunk:
        text = (await line_with(trunk, "end"))["text"]
        assert text.startswith("splitlearn: error: org/tiny: its revision is not in the cache")
    async with command(offline, "trunk", "org/tiny", "--layers", "2-5", *TRUNK[4:], "--cache-dir", tmp_path) as trunk:
        text = (await line_with(trunk, "end"))["text"]
        assert "give START-END with 1 <= START < END <= 4" in text
    async with command(offline, "up", "org/tiny", *QUICK, "--cache-dir", tmp_path) as up:
        assert "its chat_template.jinja is not in the cache" in (await line_with(up, "end"))["text"]
    assert hub.asked == []


async def test_a_named_model_and_a_converted_directory_are_told_apart(
    hub: LoopbackHub, checkpoint: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    commit = hub.add("org/tiny", checkpoint)
    async with command(environment(hub), *TRUNK, "--cache-dir", tmp_path) as trunk:
        serving = await line_with(trunk, "serving")
        assert serving["fingerprint"].startswith(f"tiny commit {commit[:12]} headers ")
        async with running_client(tiny_weights, serving["address"]) as client:
            await until(lambda: "the trunk serves" in (client.service.connection.not_ready_reason or ""))
            reason = client.service.connection.not_ready_reason or ""
    assert f"[{serving['fingerprint']}]" in reason
    assert "this client holds [checkpoint weights " in reason
    assert "(a model by its name fits no converted directory)" in reason


async def test_a_hub_that_sends_another_revision_ends_the_trunk_in_one_line_and_leaves_no_layer(
    hub: LoopbackHub, checkpoint: Path, tmp_path: Path
) -> None:
    hub.add("org/tiny", checkpoint)

    def script(asked: Asked) -> Fault | None:
        wants_tensors = asked.server == "hub" and asked.bytes is not None and asked.bytes[0] > 0
        return Fault(headers={"X-Repo-Commit": "f" * 40}) if wants_tensors else None

    hub.script = script
    async with command(environment(hub), *TRUNK, "--cache-dir", tmp_path) as trunk:
        text = (await line_with(trunk, "end"))["text"]
    assert text.startswith(
        "splitlearn: error: org/tiny: model.safetensors: the hub answers with another revision (ffff"
    )
    assert layers_in(tmp_path) == set()


async def test_a_trunk_that_is_told_to_stop_while_it_fetches_stops(
    hub: LoopbackHub, checkpoint: Path, tmp_path: Path
) -> None:
    hub.add("org/tiny", checkpoint)
    loop, waiting = asyncio.get_running_loop(), asyncio.Event()

    def script(asked: Asked) -> Fault | None:
        if asked.bytes is None or asked.bytes[0] == 0:
            return None
        loop.call_soon_threadsafe(waiting.set)
        return Fault(status=429, headers={"Retry-After": "3600"})

    hub.script = script
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "splitlearn_cli", *TRUNK, "--cache-dir", str(tmp_path)),
        env=environment(hub),
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE):
        await waiting.wait()
        process.terminate()
        _, errors = await process.communicate()
    assert process.returncode == 0, errors
    assert layers_in(tmp_path) == set()


async def test_up_fetches_a_named_model_and_answers(hub: LoopbackHub, checkpoint: Path, tmp_path: Path) -> None:
    hub.add("org/tiny", checkpoint)
    words = ("up", "org/tiny", "--cache-dir", tmp_path, *QUICK, "--max-tokens", "8", "--prompt", "the quick brown")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "splitlearn_cli", *map(str, words)),
        env=environment(hub),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    answer, errors = await process.communicate()
    assert process.returncode == 0, errors
    assert answer.strip()
    assert hub.count_tensor_bytes() == len(hub.tensor_bytes()["model.safetensors"])
