"""What goes wrong between people, services and networks: each ends in a clear error, and everything else goes on."""

import asyncio
import json
import shutil
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from openai import APIError

from support.running_split import (
    RunningClient,
    Split,
    busy,
    free_port,
    running_client,
    running_split,
    running_trunk,
    trunk_process,
    until,
)
from support.tiny_models import CONTEXT, N_LAYERS, random_model, save_sepweight, tiny_config

PROMPT = "the quick brown fox"
LONG: dict[str, Any] = {"model": "tiny", "prompt": PROMPT, "max_tokens": 450, "temperature": 0}
JSON = {"Content-Type": "application/json"}
QUICKLY = 2.0
# long enough for an answer of two tokens on a busy machine
TRUNK_TIMEOUT = 1.0


async def not_ready_reason(client: RunningClient) -> str:
    """What /ready says, which it must say with 503."""
    response = await client.http.get("/ready")
    assert response.status_code == 503
    return str(response.json()["reason"])


async def refusal(client: RunningClient, status: int, **fields: Any) -> dict[str, Any]:
    """The error of a completion that is refused with this status."""
    response = await client.complete(**{"prompt": PROMPT, **fields})
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    return error


async def settled(client: RunningClient, word: str) -> str:
    """The reason for not being ready, once it holds this word."""
    await until(lambda: word in (client.service.connection.not_ready_reason or ""))
    return await not_ready_reason(client)


# --- a trunk that is not there ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_without_a_trunk_the_client_says_so_at_once_and_recovers_when_one_comes(
    tiny_weights: Path, stream: bool
) -> None:
    port = free_port()
    address = f"127.0.0.1:{port}"
    async with running_client(tiny_weights, address) as client:
        began = time.monotonic()
        assert f"no answer from {address}" in await settled(client, "no answer")
        error = await refusal(client, 503, stream=stream)
        assert time.monotonic() - began < QUICKLY
        assert error["code"] == "trunk_not_ready"
        assert f"no answer from {address}" in error["message"]
        assert (await client.http.get("/health")).status_code == 200
        async with running_trunk(tiny_weights, port=port):
            await client.ready()
            assert (await client.http.get("/ready")).json()["layers"] == "1-4"
            assert (await client.complete(prompt=PROMPT, max_tokens=3)).status_code == 200


async def test_an_unresolvable_address_is_named_and_resolved_again(tiny_weights: Path) -> None:
    async with running_client(tiny_weights, "no-such-host.invalid:50051") as client:
        assert "no-such-host.invalid:50051" in await settled(client, "does not resolve")


async def test_a_service_that_is_no_trunk_is_recognised(tiny_weights: Path) -> None:
    async with running_split(tiny_weights) as split:
        port = split.client.http.base_url.port
        async with running_client(tiny_weights, f"127.0.0.1:{port}") as client:
            assert f"127.0.0.1:{port}" in await settled(client, "no answer")


# --- a trunk that dies -----------------------------------------------------------------------------------------------


async def test_a_trunk_that_stops_in_the_middle_of_a_stream_becomes_an_error_event(tiny_weights: Path) -> None:
    async with running_split(tiny_weights, failover_timeout=0.0) as split:
        body = {**LONG, "stream": True}
        async with split.client.http.stream("POST", "/v1/completions", json=body) as response:
            lines = data_lines(response)
            await anext(lines)
            await split.trunk.server.stop()
            rest = [line async for line in lines]
        error = json.loads(rest[-1])["error"]
        assert error["code"] == "trunk_failed"
        assert split.trunk.address in error["message"]
        assert "[DONE]" not in rest
        assert split.client.value("request_failures_total", code="trunk_failed") == 1
        await settled(split.client, "no answer")
        async with running_trunk(tiny_weights, port=split.trunk.server.port) as again:
            await split.client.ready()
            assert (await split.client.complete(prompt=PROMPT, max_tokens=3)).status_code == 200
            assert again.value("sessions_total") == 1


async def test_the_openai_package_raises_what_the_error_event_says(tiny_weights: Path) -> None:
    async with running_split(tiny_weights, failover_timeout=0.0) as split:
        stream = await split.client.openai.completions.create(**LONG, stream=True)
        await anext(stream)
        await split.trunk.server.stop()
        with pytest.raises(APIError, match="no answer from") as failure:
            _ = [chunk async for chunk in stream]
    assert failure.value.code == "trunk_failed"


async def test_a_trunk_process_that_is_killed_fails_its_requests_and_nothing_else(tiny_weights: Path) -> None:
    port = free_port()
    async with (
        trunk_process(tiny_weights, port=port) as process,
        running_client(tiny_weights, f"127.0.0.1:{port}", failover_timeout=0.0) as client,
    ):
        await client.ready()
        asking = asyncio.create_task(client.http.post("/v1/completions", json=LONG))
        await until(lambda: client.value("inter_token_latency_seconds_count") > 4)
        process.kill()
        answer = await asking
        assert answer.status_code == 502
        assert f"127.0.0.1:{port}" in answer.json()["error"]["message"]
        assert (await client.http.get("/health")).status_code == 200
        assert (await refusal(client, 503))["code"] == "trunk_not_ready"


async def test_a_client_that_is_busy_itself_does_not_blame_the_trunk(tiny_weights: Path) -> None:
    async with (
        running_trunk(tiny_weights) as trunk,
        running_client(tiny_weights, trunk.address, trunk_timeout=0.2) as client,
    ):
        await client.ready()
        thread = client.service.connection.local_parts._thread
        working = thread.run(threading.Event().wait, 0.5)
        answer = await client.complete(prompt=PROMPT, max_tokens=2)
        await working
        assert answer.status_code == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_a_trunk_that_does_not_answer_in_time_fails_the_request_and_serves_the_next(
    tiny_weights: Path, stream: bool
) -> None:
    async with (
        running_trunk(tiny_weights) as trunk,
        running_client(tiny_weights, trunk.address, trunk_timeout=TRUNK_TIMEOUT, failover_timeout=0.0) as client,
    ):
        await client.ready()
        async with busy(trunk):
            error = await refusal(client, 502, stream=stream)
        assert error["code"] == "trunk_failed"
        assert f"{trunk.address} did not reply within {TRUNK_TIMEOUT:g} s" in error["message"]
        await until(lambda: trunk.open_sessions == 0)
        # the only replica counts as unreachable until it answers the next poll
        await client.ready()
        assert (await client.complete(prompt=PROMPT, max_tokens=2, stream=stream)).status_code == 200


async def data_lines(response: httpx.Response) -> AsyncIterator[str]:
    async for line in response.aiter_lines():
        if line:
            yield line.removeprefix("data: ")


# --- ends that do not fit --------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def other_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the same shape and another seed."""
    return save_sepweight(tmp_path_factory.mktemp("other"), random_model(tiny_config("llama"), seed=1))


@pytest.mark.parametrize("layers", [None, "1-4"])
async def test_other_weights_on_the_trunk_are_named_beside_the_client_s(
    tiny_weights: Path, other_weights: Path, layers: str | None
) -> None:
    async with (
        running_trunk(other_weights) as trunk,
        running_client(tiny_weights, trunk.address, layers=layers) as client,
        running_trunk(tiny_weights) as fitting,
    ):
        reason = await settled(client, "the trunk serves")
        assert f"the trunk serves [{trunk.fingerprint}], this client holds [{fitting.fingerprint}]" in reason
        error = await refusal(client, 503)
        assert (error["code"], error["message"]) == ("trunk_not_ready", reason)


async def test_other_layers_than_the_client_insists_on_are_named_beside_them(tiny_weights: Path) -> None:
    async with (
        running_trunk(tiny_weights, "1-4") as trunk,
        running_client(tiny_weights, trunk.address, layers="2-3") as client,
    ):
        reason = await settled(client, "the trunk serves")
        assert f"layers 1-4 of {N_LAYERS}" in reason
        assert f"layers 2-3 of {N_LAYERS}" in reason


async def test_a_model_of_another_depth_is_named_beside_the_client_s(tiny_weights: Path, tmp_path: Path) -> None:
    deeper = save_sepweight(tmp_path, random_model(tiny_config("llama", num_hidden_layers=N_LAYERS + 2)))
    async with running_trunk(deeper, "2-6") as trunk, running_client(tiny_weights, trunk.address) as client:
        reason = await settled(client, "the trunk serves")
        assert f"of {N_LAYERS + 2} " in reason
        assert f"of {N_LAYERS} " in reason


async def test_a_client_follows_the_trunk_to_another_cut(tiny_weights: Path) -> None:
    port = free_port()
    async with running_client(tiny_weights, f"127.0.0.1:{port}") as client:
        texts, connection = [], client.service.connection
        for layers in ("1-4", "2-3"):
            async with running_trunk(tiny_weights, layers, port=port):
                await until(lambda layers=layers: client.is_ready and connection.local_parts.plan.layers == layers)
                assert (await client.http.get("/ready")).json()["layers"] == layers
                texts.append((await client.complete(prompt=PROMPT, max_tokens=8)).json()["choices"][0]["text"])
        assert texts[0] == texts[1]


async def test_a_trunk_exchanged_behind_the_client_s_back_refuses_the_session_by_both_names(
    tiny_weights: Path, other_weights: Path
) -> None:
    async with running_split(tiny_weights) as split:
        old, port = split.trunk, split.trunk.server.port
        await old.server.stop()
        async with running_trunk(other_weights, port=port) as new:
            # asked before and after the watch has noticed, the answer is the same error
            message = ""
            while new.fingerprint not in message:
                error = await refusal(split.client, 503)
                assert error["code"] == "trunk_not_ready"
                message = error["message"]
            assert old.fingerprint in message


@pytest.mark.parametrize(("harm", "words"), [("truncate", "expected {} bytes, found {}"), ("remove", "found no file")])
async def test_a_broken_weight_file_of_the_client_is_named_on_ready_until_it_is_repaired(
    tiny_weights: Path, tmp_path: Path, harm: str, words: str
) -> None:
    weights = tmp_path / "broken"
    shutil.copytree(tiny_weights, weights)
    file = next(weights.glob("end*"))
    whole = file.read_bytes()
    if harm == "truncate":
        file.write_bytes(whole[:-100])
    else:
        file.unlink()
    async with running_trunk(tiny_weights) as trunk, running_client(weights, trunk.address) as client:
        reason = await settled(client, file.name)
        assert words.format(len(whole), len(whole) - 100) in reason
        assert (await refusal(client, 503))["message"] == reason
        file.write_bytes(whole)
        await client.ready()


# --- requests --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_refused_requests_never_reach_the_trunk_and_the_next_one_is_served(split: Split, stream: bool) -> None:
    client = split.client
    too_long = await refusal(client, 400, prompt=[5] * CONTEXT, stream=stream)
    assert too_long["code"] == "context_length_exceeded"
    assert f"{CONTEXT} tokens" in too_long["message"]
    assert (await refusal(client, 404, model="gpt-7", stream=stream))["code"] == "model_not_found"
    assert (await refusal(client, 400, temperature=-1, stream=stream))["param"] == "temperature"
    assert (await refusal(client, 400, prompt=[1, 10**6], stream=stream))["param"] == "prompt"
    malformed = await client.http.post("/v1/completions", content=b'{"model": "tiny", "prompt": ', headers=JSON)
    assert malformed.status_code == 400
    assert malformed.json()["error"]["code"] == "invalid_json"
    assert split.trunk.value("sessions_total") == 0
    assert (await client.complete(prompt=PROMPT, max_tokens=2, stream=stream)).status_code == 200


async def test_chat_with_a_model_that_has_no_template_is_refused_with_what_to_do_instead(tmp_path: Path) -> None:
    weights = save_sepweight(tmp_path, random_model(tiny_config("llama")), chat=False)
    async with running_split(weights) as split:
        question = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}
        response = await split.client.http.post("/v1/chat/completions", json=question)
        assert response.status_code == 400
        assert response.json()["error"]["code"] == "no_chat_template"
        assert "/v1/completions" in response.json()["error"]["message"]
        assert (await split.client.complete(prompt=PROMPT, max_tokens=2)).status_code == 200


async def test_weights_that_are_not_numbers_fail_requests_and_not_the_services(tmp_path: Path) -> None:
    model = random_model(tiny_config("llama"))
    with torch.no_grad():
        model.model.norm.weight[3] = torch.nan
    async with running_split(save_sepweight(tmp_path, model)) as split:
        for stream in (False, True):
            error = await refusal(split.client, 500, stream=stream)
            assert error["code"] == "broken_numbers"
            assert "splitlearn inspect --verify" in error["message"]
        await until(lambda: split.trunk.open_sessions == 0)
        assert (await split.client.http.get("/health")).status_code == 200


async def test_a_trunk_whose_layers_give_no_numbers_is_named_as_what_failed(tmp_path: Path) -> None:
    model = random_model(tiny_config("llama"))
    with torch.no_grad():
        model.model.layers[2].input_layernorm.weight[3] = torch.nan
    async with running_split(save_sepweight(tmp_path, model)) as split:
        for stream in (False, True):
            error = await refusal(split.client, 502, stream=stream)
            assert error["code"] == "trunk_failed"
            assert "NaN" in error["message"]
        await until(lambda: split.trunk.open_sessions == 0)
