"""The chat page in a headless Chromium, against the service's own routes.

Most tests let a script stand in for the token loop, so that they decide when each piece of the answer comes;
the last one goes through a real client service and a real trunk.
"""

import asyncio
import re
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
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
from splitlearn_client.errors import NoEmbeddings, TrunkFailed, TrunkNotReady
from splitlearn_client.generation import GenerationRequest
from splitlearn_client.metrics import ClientMetrics
from splitlearn_client.report import Report
from splitlearn_client.structured.compiler import GrammarCompiler
from splitlearn_client.tokenizer import ChatTokenizer
from support.chromium import CHROMIUM, PATIENCE, Chromium, Page
from support.running_split import Split, running_split
from support.tiny_models import tiny_config, tiny_tokenizer
from support.whole_shutdown import WholeShutdown

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)")


@dataclass
class Script:
    """Stands in for the token loop: the test feeds it piece by piece; None ends the answer."""

    lines: "asyncio.Queue[str | Exception | None]" = field(default_factory=asyncio.Queue)
    asked: list[GenerationRequest] = field(default_factory=list)
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    def feed(self, *lines: str | Exception | None) -> None:
        for line in lines:
            self.lines.put_nowait(line)

    async def generate(self, request: GenerationRequest, report: Report) -> AsyncGenerator[TokenDelta]:
        self.asked.append(request)
        report.wire_bytes_sent, report.wire_bytes_received = 48_200, 61_000
        try:
            while (line := await self.lines.get()) is not None:
                if isinstance(line, Exception):
                    raise line
                report.completion_tokens += 1
                report.last_token = asyncio.get_running_loop().time()
                report.first_token = report.first_token or report.last_token - 0.1
                report.began = report.first_token - 0.25
                yield TokenDelta(line)
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


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with closing(Chromium(str(CHROMIUM), tmp_path_factory.mktemp("profile"))) as browser:
        yield browser


@asynccontextmanager
async def serving(service: Service) -> AsyncIterator[tuple[str, uvicorn.Server]]:
    """The service's application on a free port; gives its address and the server."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = WholeShutdown(uvicorn.Config(application(service), log_config=None, timeout_graceful_shutdown=1))
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


@pytest.fixture
async def open_page(chromium: Chromium, tmp_path: Path) -> AsyncIterator[Scene]:
    async with scene(chromium, tmp_path) as opened:
        yield opened


ANSWER = "document.querySelector('.turn:last-child .answer').textContent"
NUMBERS = "document.querySelector('.turn:last-child .numbers').textContent.replaceAll('\\xa0', ' ')"
IDLE = "document.getElementById('go').textContent === 'Send'"


async def test_the_page_loads_without_complaints_and_says_which_layers_are_on_the_trunk(open_page: Scene) -> None:
    page = open_page.page
    await page.until("document.querySelector('#status.ready')")
    assert await page.text("#status [role=status]") == "ready · layers 1-4 on the trunk"
    assert await page.text("#model") == "tiny"
    assert page.complaints == []


async def test_the_answer_grows_as_its_pieces_come_and_ends_with_the_service_s_numbers(open_page: Scene) -> None:
    page, script = open_page.page, open_page.script
    await page.write("first line")
    await page.press_enter(shift=True)
    await page.ask("second line")
    script.feed("Hello", ",")
    await page.until(f"{ANSWER} === 'Hello,'")
    await page.until(f"{NUMBERS}.endsWith('tokens/s · 2 tokens')")
    script.feed(" <b>you</b>", None)
    await page.until(IDLE)
    assert await page.value(ANSWER) == "Hello, <b>you</b>"
    numbers = r"[0-9.]+ tokens/s · first token 0\.25 s · 48\.2 kB sent, 61\.0 kB received · 3 tokens"
    assert re.fullmatch(numbers, await page.value(NUMBERS))
    assert open_page.prompt(0) == "user: first line\nsecond line\nassistant:"
    assert await page.text("#announcement") == "Hello, <b>you</b>"
    assert page.complaints == []


async def test_the_next_question_takes_the_system_prompt_and_the_whole_conversation_along(open_page: Scene) -> None:
    page, script = open_page.page, open_page.script
    await page.value("document.getElementById('system').value = 'Be short.'")
    await page.value("document.getElementById('temperature').value = '0.5'")
    for question, answer in (("one", "eins"), ("two", "zwei")):
        await page.ask(question)
        script.feed(answer, None)
        await page.until(f"{IDLE} && {ANSWER} === '{answer}'")
    assert open_page.prompt(1) == "system: Be short.\nuser: one\nassistant: eins\nuser: two\nassistant:"
    assert script.asked[1].sampling.temperature == 0.5
    assert script.asked[1].max_tokens == 512
    await page.click("#new")
    assert await page.value("document.querySelectorAll('.turn').length") == 0
    await page.write("three")
    await page.click("#go")
    script.feed("drei", None)
    await page.until(f"{IDLE} && {ANSWER} === 'drei'")
    assert open_page.prompt(2) == "system: Be short.\nuser: three\nassistant:"


async def test_stop_ends_the_request_and_keeps_the_partial_answer_and_the_draft(open_page: Scene) -> None:
    page, script = open_page.page, open_page.script
    await page.ask("go on")
    script.feed("so", " far")
    await page.until(f"{ANSWER} === 'so far'")
    await page.ask("the next one")  # an answer is still coming: nothing is sent, nothing is lost
    await page.click("#go")
    await page.until(IDLE)
    async with asyncio.timeout(PATIENCE):
        await script.closed.wait()
    assert await page.value(ANSWER) == "so far"
    assert (await page.value(NUMBERS)).endswith("2 tokens · stopped")
    assert await page.value("document.getElementById('draft').value") == "the next one"
    assert len(script.asked) == 1


async def test_a_refusal_is_a_sentence_for_readers_with_details_on_demand_and_can_be_tried_again(
    open_page: Scene,
) -> None:
    page, script = open_page.page, open_page.script
    await page.ask("anyone there?")
    script.feed(TrunkNotReady("no trunk answers at 127.0.0.1:50051; start one there"))
    await page.until("document.querySelector('.error')")
    sentence = "The model is not available at the moment. Try again in a little while."
    assert await page.text(".error p") == sentence
    assert "127.0.0.1" not in await page.value("document.querySelector('.error').innerText")
    await page.click(".error summary")
    assert await page.value("document.querySelector('.error details').open")
    assert await page.text(".error details p") == "no trunk answers at 127.0.0.1:50051; start one there"
    assert (await page.text(".question")).endswith("anyone there?")
    script.feed("yes", None)
    await page.click(".error button")
    await page.until(f"{IDLE} && {ANSWER} === 'yes'")
    assert await page.value("document.querySelector('.error')") is None
    assert open_page.prompt(0) == open_page.prompt(1) == "user: anyone there?\nassistant:"


@pytest.mark.parametrize("cable_cut", [False, True])
async def test_a_failure_in_the_middle_keeps_what_came_before_it(open_page: Scene, cable_cut: bool) -> None:
    page, script = open_page.page, open_page.script
    await page.ask("go on")
    script.feed("half an")
    await page.until(f"{ANSWER} === 'half an'")
    if cable_cut:
        for connection in list(open_page.server.server_state.connections):
            connection.transport.abort()
    else:
        script.feed(TrunkFailed("the trunk failed: gone"))
    await page.until("document.querySelector('.error')")
    lost = "The connection was lost before the answer was complete."
    failed = "The model stopped before the answer was complete."
    assert await page.text(".error p") == (lost if cable_cut else failed)
    assert await page.text(".error details p") == ("" if cable_cut else "the trunk failed: gone")
    assert await page.value(ANSWER) == "half an"


async def test_a_model_without_chat_template_continues_plain_text(chromium: Chromium, tmp_path: Path) -> None:
    async with scene(chromium, tmp_path, chat=False) as opened:
        page = opened.page
        await page.ask("the quick brown")
        await page.until("document.querySelector('.error')")
        assert await page.text(".error p") == "This model has no chat template. It can still continue plain text."
        opened.script.feed(" fox", None)
        await page.click(".error button")
        await page.until(f"{IDLE} && {ANSWER} === ' fox'")
        assert opened.prompt(0) == "the quick brown"
        assert await page.value("document.getElementById('plain').checked") is True


async def test_the_status_says_why_the_trunk_is_not_ready(chromium: Chromium, tmp_path: Path) -> None:
    reason = "nothing listens at 127.0.0.1:50051"
    async with scene(chromium, tmp_path, reason=reason) as opened:
        await opened.page.until("document.querySelector('#status.waiting')")
        page = opened.page
        assert await page.text("#status [role=status]") == "The model is not available yet."
        assert reason not in await page.value("document.getElementById('status').innerText")
        await page.click("#status summary")
        assert reason in await page.value("document.getElementById('status').innerText")


async def test_on_a_phone_only_the_conversation_scrolls_and_its_end_stays_in_view(open_page: Scene) -> None:
    page, script = open_page.page, open_page.script
    await page.do("Emulation.setDeviceMetricsOverride", width=380, height=700, deviceScaleFactor=2, mobile=True)
    script.feed("a line\n" * 50, None)
    await page.ask("fill the screen")
    await page.until(f"{IDLE} && document.querySelector('.turn')")
    script.feed("x" * 200, TrunkFailed("y" * 200))
    await page.ask("w" * 200)
    await page.until("document.querySelector('.error')")
    widest = "Math.max(...[...document.querySelectorAll('body *')].map((each) => each.getBoundingClientRect().right))"
    assert await page.value(widest) <= 380
    page_size = "[document.scrollingElement.scrollWidth, document.scrollingElement.scrollHeight]"
    assert await page.value(page_size) == [380, 700]
    await page.value("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    below = "document.querySelector('.error').getBoundingClientRect().bottom"
    assert await page.value(f"{below} <= document.getElementById('composer').getBoundingClientRect().top")


def _apart(one: str, other: str) -> str:
    """JavaScript: whether two elements do not overlap."""
    boxes = f"[document.querySelector({one!r}), document.querySelector({other!r})]"
    return f"""(([a, b]) => a.right <= b.left || b.right <= a.left || a.bottom <= b.top || b.bottom <= a.top)(
        {boxes}.map((each) => each.getBoundingClientRect()))"""


# widths of letters differ by half between these, and a reader may have doubled the size
FONTS = ["16px sans-serif", "16px monospace", "22px 'DejaVu Sans'", "24px serif", "32px 'DejaVu Sans'"]


@pytest.mark.parametrize("font", FONTS)
async def test_the_header_holds_on_a_phone_with_any_font_and_no_sheet_covers_its_button(
    open_page: Scene, font: str
) -> None:
    page = open_page.page
    await page.do("Emulation.setDeviceMetricsOverride", width=360, height=640, deviceScaleFactor=2, mobile=True)
    await page.until("document.querySelector('#status.ready')")
    size, family = font.split(" ", 1)
    await page.value(f"document.documentElement.style.fontSize = '{size}'")
    await page.value(f"document.body.style.font = '1rem/1.6 ' + {family!r}")
    await page.value("document.getElementById('model').textContent = 'Organisation/A-model-with-a-long-name-7B'")
    widest = "Math.max(...[...document.querySelectorAll('header *')].map((each) => each.getBoundingClientRect().right))"
    assert await page.value(widest) <= 360
    for button in ("#new", "#open-settings"):
        lines = f"document.querySelector('{button}').getBoundingClientRect().height / parseFloat('{size}')"
        assert await page.value(lines) < 2.5
        assert await page.value(_apart("#brand", button))
        assert await page.value(_apart("#status", button))
    assert await page.value(_apart("#new", "#open-settings"))
    assert await page.value("document.getElementById('draft').getBoundingClientRect().bottom") < 640
    for sheet in ("settings", "privacy"):
        await page.click(f"#open-{sheet}")
        assert await page.value(f"document.getElementById('{sheet}').matches(':popover-open')")
        assert await page.value(_apart(f"#{sheet}", f"#open-{sheet}"))
        box = f"document.getElementById('{sheet}').getBoundingClientRect()"
        assert await page.value(f"{box}.top >= 0 && {box}.bottom <= 640")
        await page.click(f"#open-{sheet}")
        assert not await page.value(f"document.getElementById('{sheet}').matches(':popover-open')")


async def test_an_answer_comes_through_a_real_client_service_and_trunk(chromium: Chromium, split: Split) -> None:
    async with tab(chromium, str(split.client.http.base_url)) as page:
        await page.until("document.querySelector('#status.ready')")
        await page.value("document.getElementById('max-tokens').value = '20'")
        await page.ask("the quick brown fox")
        await page.until(f"document.querySelector('.numbers') && {IDLE}")
        numbers = r"[0-9.]+ tokens/s · first token [0-9.]+ s · [0-9.]+ kB sent, [0-9.]+ kB received · \d+ tokens.*"
        assert re.fullmatch(numbers, await page.value(NUMBERS))
        assert await page.value(ANSWER) != ""


async def test_a_service_that_asks_for_a_key_gets_the_one_that_the_reader_enters(
    chromium: Chromium, tiny_weights: Path
) -> None:
    asks = "This service needs a valid API key. Enter it in the settings."
    async with (
        running_split(tiny_weights, api_key="the-key-0123456789") as split,
        tab(chromium, str(split.client.http.base_url)) as page,
    ):
        await page.until(f"document.querySelector('#status [role=status]').textContent === '{asks}'")
        await page.value("document.getElementById('max-tokens').value = '4'")
        await page.ask("the quick brown fox")
        await page.until("document.querySelector('.error')")
        assert await page.text(".error p") == asks
        await page.click("#open-settings")
        await page.click("#key")
        await page.do("Input.insertText", text="the-key-0123456789")
        await page.click("#open-settings")
        await page.click(".error button")
        await page.until(f"{IDLE} && {ANSWER} !== ''")
        await page.until("document.querySelector('#status.ready')")
        # the tab keeps it, and neither the page nor the browser does
        await page.open(str(split.client.http.base_url))
        await page.until("document.querySelector('#status.ready')")
        assert await page.value("sessionStorage.getItem('api-key')") == "the-key-0123456789"
        assert await page.value("localStorage.length") == 0
        assert "the-key-0123456789" not in await page.value("document.documentElement.outerHTML + location.href")
