"""A trunk whose layers are computed by two processes loses one of them, or they lose the trunk."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from transformers import PreTrainedModel

from splitlearn_comm import AsyncGRPCComputeClient, CommError
from splitlearn_comm.replicas.health import ReplicaState
from support.running_split import PATIENCE, RunningClient, free_port, running_client, running_trunk, until
from support.sessions import Whole, decode, prompt
from support.tiny_models import N_LAYERS, random_model, save_sepweight, tiny_config

LAYERS = f"1-{N_LAYERS - 1}"
NEW_TOKENS = 100
COMMAND = (sys.executable, "-m", "splitlearn_cli", "--log-format", "json", "trunk", "--engine", "vllm")


@dataclass(frozen=True)
class Scene:
    """A model, and a trunk of it.

    Attributes:
        children: all processes that the trunk has started.
        workers: those of them that compute.
    """

    model: PreTrainedModel
    weights: Path
    process: "subprocess.Popen[str]"
    address: str
    children: list[psutil.Process]
    workers: list[psutil.Process]

    def ended(self) -> tuple[int, list[dict[str, Any]], str]:
        """Waits for its end. The exit status, what it has logged since it serves, and its last word."""
        _, text = self.process.communicate(timeout=PATIENCE)
        lines = text.splitlines()
        (word,) = [line for line in lines if line.startswith("splitlearn: error: ")]
        return self.process.returncode, [json.loads(line) for line in lines if line.startswith("{")], word


def is_gone(process: psutil.Process) -> bool:
    """Whether it runs no more; who has adopted it may be slow to ask for its exit status."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


async def all_gone(processes: list[psutil.Process]) -> None:
    await until(lambda: all(is_gone(each) for each in processes))


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return random_model(tiny_config("llama", hidden_size=128, head_dim=32))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory, model: PreTrainedModel) -> Path:
    return save_sepweight(tmp_path_factory.mktemp("tiny"), model)


@pytest.fixture
def scene(model: PreTrainedModel, weights: Path) -> Iterator[Scene]:
    flags = ("--layers", LAYERS, "--port", "0", "--metrics-port", "0", "--tensor-parallel", "2")
    environment = {**os.environ, "SPLITLEARN_TRUNK_KV_CACHE_MEMORY_BYTES": "64MiB"}
    command = [*COMMAND, str(weights), *flags]
    with ExitStack() as stack:
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        stack.callback(kill, process)
        assert process.stderr is not None
        told = next((json.loads(line) for line in process.stderr if '"serving"' in line), None)
        assert told is not None, "it has ended without serving"
        children = psutil.Process(process.pid).children(recursive=True)
        for each in children:
            stack.callback(kill_if_there, each)
        workers = [each for each in children if "Worker" in " ".join(each.cmdline())]
        assert len(workers) == 2, [each.cmdline() for each in children]
        yield Scene(model, weights, process, told["address"], children, workers)


def kill(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate()


def kill_if_there(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.kill()


async def healths(address: str) -> AsyncIterator[bool]:
    """What a trunk says of its health, up to its end."""
    async with AsyncGRPCComputeClient(address) as client:
        try:
            async for is_serving in client.watch_health():
                yield is_serving
        except CommError:
            return


async def token_ids(client: RunningClient) -> list[int]:
    fields = {"max_tokens": NEW_TOKENS, "ignore_eos": True, "return_token_ids": True}
    answer = await client.complete(prompt=prompt(70).tolist(), **fields)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["choices"][0]["token_ids"])


def greedy(model: PreTrainedModel) -> list[int]:
    whole = Whole(model)
    return decode(whole, whole.append(prompt(70)), NEW_TOKENS)[0]


@pytest.mark.parametrize("lost", [0, 1])
async def test_a_text_goes_on_with_another_trunk_when_a_process_dies_in_a_step(scene: Scene, lost: int) -> None:
    port = free_port()
    both = f"{scene.address},127.0.0.1:{port}"
    # a stopped process ends no step, and is not to be taken for a frozen trunk meanwhile
    async with running_client(scene.weights, both, trunk_timeout=PATIENCE) as client:
        await client.ready()
        asked = asyncio.create_task(token_ids(client))
        await until(lambda: client.value("inter_token_latency_seconds_count") > 3)
        scene.workers[lost].suspend()
        async with running_trunk(scene.weights, LAYERS, port=port) as other:
            await until(lambda: client.service.connection.replicas.states()[ReplicaState.READY] == 2)
            assert not asked.done()
            scene.workers[lost].kill()
            assert await asked == greedy(scene.model)
            assert other.value("sessions_total") >= 1
    status, _, word = await asyncio.to_thread(scene.ended)
    assert status == 1
    assert "a process of the engine was killed by SIGKILL" in word
    await all_gone(scene.children)


async def test_a_process_that_dies_while_nobody_asks_ends_the_trunk_which_says_so_before(scene: Scene) -> None:
    told = []
    async for is_serving in healths(scene.address):
        told.append(is_serving)
        if is_serving:
            scene.workers[1].kill()
    assert told == [True, False]
    status, lines, word = await asyncio.to_thread(scene.ended)
    assert status == 1
    (failed,) = [line for line in lines if line["event"] == "the engine failed"]
    assert failed["level"] == "error"
    assert failed["error"] in word
    await all_gone(scene.children)


async def test_processes_end_at_once_when_their_trunk_is_killed_whatever_they_do(scene: Scene) -> None:
    # it can look for no sign of its parent's end
    scene.workers[0].suspend()
    scene.process.kill()
    await all_gone(scene.children)
