"""The chat page in a headless Chromium, in front of a service whose token loop is a script.

The test decides when each piece of the answer comes.
"""

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import uvicorn

from splitlearn.model.plan import SplitPlan
from splitlearn_client.answer import TokenDelta
from splitlearn_client.api.service import Service
from splitlearn_client.app import application
from splitlearn_client.errors import NoEmbeddings
from splitlearn_client.generation import GenerationRequest
from splitlearn_client.metrics import ClientMetrics
from splitlearn_client.report import Report
from splitlearn_client.serving.access import Access
from splitlearn_client.structured.compiler import GrammarCompiler
from splitlearn_client.tokenizer import ChatTokenizer
from support.chromium import CHROMIUM, Chromium, Page
from support.tiny_models import tiny_config, tiny_tokenizer
from support.whole_shutdown import WholeShutdown

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)")

# JavaScript: what the last turn shows
ANSWER = "document.querySelector('.turn:last-child .answer').innerText"
NUMBERS = "document.querySelector('.turn:last-child .numbers').textContent.replaceAll('\\xa0', ' ')"
IDLE = "document.getElementById('go').textContent === 'Send'"
QUESTIONS = "[...document.querySelectorAll('.asked')].map((each) => each.lastChild.textContent)"
LAST_TOOLS = ".turn:last-child > .tools"


@dataclass
class Script:
    """Stands in for the token loop: the test feeds it piece by piece; None ends the answer."""

    lines: "asyncio.Queue[str | TokenDelta | Exception | None]" = field(default_factory=asyncio.Queue)
    asked: list[GenerationRequest] = field(default_factory=list)
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    def feed(self, *lines: str | TokenDelta | Exception | None) -> None:
        for line in lines:
            self.lines.put_nowait(line)

    async def generate(self, request: GenerationRequest, report: Report) -> AsyncGenerator[TokenDelta]:
        self.asked.append(request)
        report.wire_bytes_sent, report.wire_bytes_received = 48_200, 61_000
        report.timings |= {"bottom": 0.03, "wire": 0.01, "trunk": 0.2, "top": 0.06}
        try:
            while (line := await self.lines.get()) is not None:
                if isinstance(line, Exception):
                    raise line
                report.completion_tokens += 1
                report.last_token = asyncio.get_running_loop().time()
                report.first_token = report.first_token or report.last_token - 0.1
                report.began = report.first_token - 0.25
                yield line if isinstance(line, TokenDelta) else TokenDelta(line)
            yield TokenDelta("", finish_reason="stop")
        finally:
            self.closed.set()


@dataclass(frozen=True)
class Scene:
    """The page open in the browser, and the strings behind it."""

    page: Page
    script: Script
    tokenizer: ChatTokenizer
    server: uvicorn.Server

    def prompt(self, nth: int) -> str:
        """The text that the service was asked to go on from."""
        return self.tokenizer.decode(self.script.asked[nth].prompt)


@asynccontextmanager
async def serving(service: Service) -> AsyncIterator[tuple[str, uvicorn.Server]]:
    """The service's application on a free port; gives its address and the server."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        app = application(service)
        noted = Access(app, app.routes, lambda *_: None, lambda *_: None)
        server = WholeShutdown(uvicorn.Config(noted, log_config=None, timeout_graceful_shutdown=1))
        running = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/", server
        finally:
            server.should_exit = True
            await running


@asynccontextmanager
async def tab(chromium: Chromium, address: str) -> AsyncIterator[Page]:
    """The page in a window without a past."""
    window = (await chromium.ask("Target.createBrowserContext"))["browserContextId"]
    target = (await chromium.ask("Target.createTarget", url="about:blank", browserContextId=window))["targetId"]
    session = (await chromium.ask("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
    page = Page(chromium, session)
    try:
        await page.do("Emulation.setDeviceMetricsOverride", width=1280, height=800, deviceScaleFactor=1, mobile=False)
        # the browser would wait for a reader's answer
        await page.do("Page.addScriptToEvaluateOnNewDocument", source="window.confirm = () => true")
        await page.open(address)
        yield page
    finally:
        del chromium.listeners[session]
        await chromium.ask("Target.disposeBrowserContext", browserContextId=window)


@asynccontextmanager
async def scene(
    chromium: Chromium, folder: Path, *, chat: bool = True, reason: str | None = None
) -> AsyncIterator[Scene]:
    tiny_tokenizer(chat).save_pretrained(folder)
    config = tiny_config("llama")
    tokenizer, script = ChatTokenizer(folder, config), Script()
    # as much of the connection to the trunk as /ready asks
    connection = SimpleNamespace(
        not_ready_reason=reason,
        may_recover=True,
        local_parts=SimpleNamespace(plan=SplitPlan(1, 4, 5), fingerprint="tiny"),
    )
    grammars = GrammarCompiler(partial(tokenizer.read_for_grammars, frozenset()))
    metrics, none = ClientMetrics("tiny"), NoEmbeddings("nothing computes them")
    service = Service("tiny", 0, config.vocab_size, tokenizer, script, connection, metrics, grammars, none)
    async with serving(service) as (address, server), tab(chromium, address) as page:
        yield Scene(page, script, tokenizer, server)


async def talk(scene: Scene, *exchanges: tuple[str, str]) -> None:
    """Asks each question, and lets its answer come."""
    for question, answer in exchanges:
        await scene.page.ask(question)
        scene.script.feed(answer, None)
        await done(scene, answer)


async def done(scene: Scene, answer: str) -> None:
    """Waits until the last answer is complete, and this one."""
    await scene.page.until(f"{IDLE} && document.querySelector('{LAST_TOOLS} button') && {ANSWER} === {answer!r}")
