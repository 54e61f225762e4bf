"""Open WebUI in front of the service: a model list, chats, a stream, and the titles that it asks for by itself."""

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.client_process import becomes
from support.running_split import PATIENCE
from tests.clients.conftest import Plain
from tests.clients.environments import OPEN_WEBUI

pytestmark = pytest.mark.slow

_START_SECONDS = 300
_ASKED: dict[str, Any] = {"model": "tiny", "temperature": 0, "max_tokens": 8}


def settings(url: str, folder: Path) -> dict[str, str]:
    """Its environment variables: one provider, no accounts, and nothing from the internet."""
    return {
        "DATA_DIR": str(folder / "data"),
        "HF_HOME": str(folder / "hub"),
        "ENABLE_OLLAMA_API": "False",
        "OPENAI_API_BASE_URL": f"{url.rstrip('/')}/v1",
        "OPENAI_API_KEY": "none-is-needed",
        "WEBUI_AUTH": "False",
        "WEBUI_SECRET_KEY": "a-secret-of-this-test",
        "OFFLINE_MODE": "True",
        # its own is longer than the served model's context
        "TITLE_GENERATION_PROMPT_TEMPLATE": "A title for: {{prompt:start:20}}",
        "HF_HUB_OFFLINE": "1",
        "NO_PROXY": "*",
    }


@pytest.fixture
async def webui(plain: Plain, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Its API, signed in."""
    await asyncio.to_thread(OPEN_WEBUI.make)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = tmp_path / "open_webui.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(OPEN_WEBUI.python.with_name("open-webui"), "serve", "--host", "127.0.0.1", "--port", str(port)),
            env={**os.environ, **settings(plain.url, tmp_path)},
            cwd=tmp_path,
            stdout=output,
            stderr=output,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=url, timeout=PATIENCE, trust_env=False) as http:

            async def is_up() -> bool:
                assert process.returncode is None, await asyncio.to_thread(log.read_text, errors="replace")
                with suppress(httpx.TransportError):
                    return (await http.get("/health")).status_code == 200
                return False

            await becomes(is_up, patience=_START_SECONDS)
            # without accounts everybody is its one user
            signed = await http.post("/api/v1/auths/signin", json={"email": "", "password": ""})
            signed.raise_for_status()
            http.headers["Authorization"] = f"Bearer {signed.json()['token']}"
            yield http
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def test_it_lists_the_model_and_shows_its_answers(webui: httpx.AsyncClient, plain: Plain) -> None:
    models = (await webui.get("/api/models")).json()["data"]
    assert "tiny" in [model["id"] for model in models]

    text = await plain.chat("hello")
    asked = {**_ASKED, "messages": [{"role": "user", "content": "hello"}]}
    whole = await webui.post("/api/chat/completions", json={**asked, "stream": False})
    assert whole.json()["choices"][0]["message"]["content"] == text

    async with webui.stream("POST", "/api/chat/completions", json={**asked, "stream": True}) as reply:
        lines = [line async for line in reply.aiter_lines() if line.startswith("data: {")]
    choices = [choice for line in lines for choice in json.loads(line.removeprefix("data: "))["choices"]]
    pieces = [choice["delta"].get("content") or "" for choice in choices]
    assert "".join(pieces) == text

    title = await webui.post("/api/v1/tasks/title/completions", json={"model": "tiny", "messages": asked["messages"]})
    assert title.status_code == 200, title.text
