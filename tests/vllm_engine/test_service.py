"""`splitlearn trunk --engine vllm`, a process of its own, behind a client."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from support.running_split import running_client
from support.sessions import Whole, decode, prompt
from support.tiny_models import N_LAYERS, random_model, save_sepweight, tiny_config

NEW_TOKENS = 24
COMMAND = (sys.executable, "-m", "splitlearn_cli", "--log-format", "json", "trunk", "--engine", "vllm")


@contextmanager
def trunk(weights: Path, *flags: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Its address, and the lines that it has logged up to where it serves."""
    command = [*COMMAND, str(weights), "--port", "0", "--metrics-port", "0", *flags]
    environment = {**os.environ, "SPLITLEARN_TRUNK_KV_CACHE_MEMORY_BYTES": "64MiB"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stderr is not None
        told = []
        for line in process.stderr:
            if line.startswith("{"):
                told.append(json.loads(line))
                if told[-1]["event"] == "serving":
                    break
        assert told, "it has ended without a word"
        assert told[-1]["event"] == "serving", told
        yield told[-1]["address"], told
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 0


def greedy(model: PreTrainedModel, ids_T: torch.Tensor) -> list[int]:
    whole = Whole(model)
    return decode(whole, whole.append(ids_T), NEW_TOKENS)[0]


async def tokens(weights: Path, address: str, ids_T: torch.Tensor) -> list[int]:
    async with running_client(weights, address) as client:
        await client.ready()
        fields = {"prompt": ids_T.tolist(), "max_tokens": NEW_TOKENS, "ignore_eos": True, "return_token_ids": True}
        answers = [await client.complete(**fields) for _ in range(2)]
    found = [answer.json()["choices"][0]["token_ids"] for answer in answers]
    # the second one begins with blocks that the first one has left
    assert found[0] == found[1]
    return list(found[0])


@pytest.mark.parametrize("n_workers", [1, 2])
async def test_a_client_says_what_the_whole_model_says(tmp_path: Path, n_workers: int) -> None:
    model = random_model(tiny_config("llama", hidden_size=128, head_dim=32))
    weights = save_sepweight(tmp_path, model)
    ids_T = prompt(70)
    with trunk(weights, "--layers", f"1-{N_LAYERS - 1}", "--tensor-parallel", str(n_workers)) as (address, told):
        assert not [line for line in told if "cannot serve" in line["event"]]
        assert await tokens(weights, address, ids_T) == greedy(model, ids_T)


async def test_what_vllm_cannot_serve_says_so_and_the_native_engine_serves_it(tmp_path: Path) -> None:
    # heads of 16 numbers: known once its kernel runs
    model = random_model(tiny_config("llama"))
    weights = save_sepweight(tmp_path, model)
    ids_T = prompt(40)
    with trunk(weights) as (address, told):
        (line,) = [line for line in told if "cannot serve" in line["event"]]
        assert "head_dim=16" in line["reason"]
        assert await tokens(weights, address, ids_T) == greedy(model, ids_T)


def test_what_vllm_and_the_settings_say_against_each_other_ends_the_process(tiny_weights: Path) -> None:
    command = [*COMMAND, str(tiny_weights), "--quantization", "int8"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "--quantization is for --engine native alone" in done.stderr
