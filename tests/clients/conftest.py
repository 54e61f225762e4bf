"""A served model for other people's programs, and what it says to plain HTTP."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from transformers import PreTrainedModel

from support.client_process import becomes, client_process
from support.running_split import PATIENCE, running_trunk
from support.tiny_models import save_sepweight


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_llama: PreTrainedModel) -> Path:
    """The served model as a Hugging Face folder."""
    save_sepweight(tmp_path, tiny_llama)
    return tmp_path / "checkpoint"


@pytest.fixture
def weights(checkpoint: Path) -> Path:
    """The served model as parts."""
    return checkpoint.parent / "tiny"


@asynccontextmanager
async def served(weights: Path, *flags: str) -> AsyncIterator[httpx.AsyncClient]:
    """Plain HTTP to a service of its own process that is ready."""
    async with (
        running_trunk(weights) as trunk,
        client_process(weights, trunk.address, *flags) as client,
        httpx.AsyncClient(base_url=client.url, timeout=PATIENCE, trust_env=False) as http,
    ):

        async def is_ready() -> bool:
            return (await http.get("/ready")).status_code == 200

        await becomes(is_ready)
        yield http


@pytest.fixture
async def http(weights: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Plain HTTP to a service that has the model "tiny" and is ready."""
    async with served(weights) as http:
        yield http


class Plain:
    """Asks the service without any package: greedy, for the eight tokens that the programs ask for."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http
        self.url = str(http.base_url)

    async def chat(self, text: str) -> str:
        reply = await self._of("/v1/chat/completions", messages=[{"role": "user", "content": text}])
        return str(reply["choices"][0]["message"]["content"])

    async def completion(self, text: str) -> str:
        return str((await self._of("/v1/completions", prompt=text))["choices"][0]["text"])

    async def _of(self, path: str, **body: Any) -> Any:
        response = await self.http.post(path, json={"model": "tiny", "temperature": 0, "max_tokens": 8, **body})
        response.raise_for_status()
        return response.json()


@pytest.fixture
def plain(http: httpx.AsyncClient) -> Plain:
    return Plain(http)
