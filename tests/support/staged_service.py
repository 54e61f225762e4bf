"""A service of a family's tokenizer, behind its own server; a script stands in for the model."""

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
from openai import AsyncOpenAI

from splitlearn_client.answer import AnswerText
from splitlearn_client.api.response_store import ResponseStore
from splitlearn_client.api.service import Service
from splitlearn_client.app import http_server
from splitlearn_client.errors import NoEmbeddings
from splitlearn_client.generation import GenerationRequest
from splitlearn_client.metrics import ClientMetrics
from splitlearn_client.parsing.dialect import Dialect, dialect_of
from splitlearn_client.report import Report
from splitlearn_client.sampling import Choice
from splitlearn_client.serving.tenant_directory import TenantDirectory
from splitlearn_client.settings import ClientSettings
from splitlearn_client.structured.compiler import GrammarCompiler
from splitlearn_client.tokenizer import ChatTokenizer
from support.tiny_models import tiny_config, tiny_tokenizer
from support.tool_templates import Family

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
END = 2


class Script:
    """Stands in for the token loop: every answer has the tokens of this text, special ones included."""

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self._tokenizer = tokenizer
        self.text = ""
        self.asked: list[GenerationRequest] = []

    def check(self, request: GenerationRequest) -> None:
        pass

    async def generate(self, request: GenerationRequest, report: Report) -> "AsyncGenerator[Any]":
        self.asked.append(request)
        ids = [*await self._tokenizer.tokenize(self.text, bare=True), END]
        text = AnswerText(self._tokenizer.vocabulary, request.prompt, request.stop, frozenset({END}), request.shown)
        logprob = None if request.sampling.top_logprobs is None else -1.0
        for number, token in enumerate(ids, start=1):
            report.completion_tokens += 1
            delta = text.add(Choice(token, logprob), last=number == request.max_tokens)
            yield delta
            if delta.finish_reason is not None:
                return

    async def generate_each(
        self, request: GenerationRequest, report: Report, reports: Sequence[Report]
    ) -> "AsyncGenerator[Any]":
        for number, each in enumerate(reports):
            async with aclosing(self.generate(request, each)) as deltas:
                async for delta in deltas:
                    yield number, delta


@dataclass(frozen=True)
class Stage:
    """A service without a trunk, and how it is asked."""

    tokenizer: ChatTokenizer
    script: Script
    http: httpx.AsyncClient
    openai: AsyncOpenAI

    async def asked(self, text: str, **fields: Any) -> dict[str, Any]:
        self.script.text = text
        body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "tools": [TOOL], **fields}
        reply = await self.http.post("/v1/chat/completions", json=body)
        assert reply.status_code == 200, reply.text
        whole: dict[str, Any] = reply.json()
        return whole

    async def streamed(self, text: str, **fields: Any) -> list[Any]:
        self.script.text = text
        body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "tools": [TOOL], **fields}
        return [chunk async for chunk in await self.openai.chat.completions.create(**body, stream=True)]


@asynccontextmanager
async def staged(folder: Path, family: Family, dialect: Dialect | None = None) -> AsyncIterator[Stage]:
    """The service of a family's tokenizer, behind its own server."""
    made = tiny_tokenizer()
    made.add_special_tokens({"additional_special_tokens": list(family.tokens)})
    made.chat_template = family.template
    made.save_pretrained(folder)
    tokenizer = ChatTokenizer(folder, tiny_config("llama", vocab_size=400))
    script = Script(tokenizer)
    grammars = GrammarCompiler(partial(tokenizer.read_for_grammars, frozenset({END})))
    found = dialect or dialect_of(tokenizer.template, tokenizer.hidden(), "auto", "auto", tokenizer.responses())
    connection: Any = SimpleNamespace(not_ready_reason=None, may_recover=True)
    generator: Any = script
    store = ResponseStore(2**20)
    parts = (
        tokenizer,
        generator,
        connection,
        ClientMetrics("tiny"),
        grammars,
        NoEmbeddings("nothing computes them"),
        found,
    )
    service = Service("tiny", 0, 400, *parts, responses=store)
    settings = ClientSettings(weights=folder, trunk="127.0.0.1:1", shutdown_timeout=1.0)
    server = http_server(service, settings, TenantDirectory.of(settings))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        serving = asyncio.create_task(server.run([listening]))
        async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as http:
            yield Stage(tokenizer, script, http, AsyncOpenAI(base_url=f"{url}/v1", api_key="none", http_client=http))
        server.stop()
        await serving
    tokenizer.close()
    grammars.close()
