"""The chat page: questions, answers and failures."""

import asyncio
import re
from pathlib import Path

import pytest

from splitlearn_client.errors import TrunkFailed, TrunkNotReady
from support.chat_scene import ANSWER, IDLE, NUMBERS, Scene, needs_chromium, scene, tab
from support.chromium import PATIENCE, Chromium
from support.running_split import Split, running_split

pytestmark = needs_chromium


async def test_the_page_loads_without_complaints_and_says_which_layers_are_on_the_trunk(open_page: Scene) -> None:
    page = open_page.page
    await page.until("document.querySelector('#status.ready')")
    assert await page.text("#status [role=status]") == "ready · layers 1-4 on the trunk"
    assert await page.text("#model") == "tiny"
    assert page.complaints == []


async def test_the_answer_grows_as_its_pieces_come_and_ends_with_the_service_s_numbers(open_page: Scene) -> None:
    page, script = open_page.page, open_page.script
    await page.write("first line")
    await page.press("Enter", shift=True)
    await page.ask("second line")
    script.feed("Hello", ",")
    await page.until(f"{ANSWER} === 'Hello,'")
    await page.until(f"{NUMBERS}.endsWith('2 tokens')")
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
    await page.until("document.querySelector('.failed')")
    sentence = "The model is not available at the moment. Try again in a little while."
    assert await page.text(".failed p") == sentence
    assert "127.0.0.1" not in await page.value("document.querySelector('.failed').innerText")
    await page.click(".failed summary")
    assert await page.value("document.querySelector('.failed details').open")
    assert await page.text(".failed details p") == "no trunk answers at 127.0.0.1:50051; start one there"
    assert await page.text(".asked") == "You: anyone there?"
    script.feed("yes", None)
    await page.click(".failed button")
    await page.until(f"{IDLE} && {ANSWER} === 'yes'")
    assert await page.value("document.querySelector('.failed')") is None
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
    await page.until("document.querySelector('.failed')")
    lost = "The connection was lost before the answer was complete."
    failed = "The model stopped before the answer was complete."
    assert await page.text(".failed p") == (lost if cable_cut else failed)
    assert await page.text(".failed details p") == ("" if cable_cut else "the trunk failed: gone")
    assert await page.value(ANSWER) == "half an"


async def test_a_model_without_chat_template_continues_plain_text(chromium: Chromium, tmp_path: Path) -> None:
    async with scene(chromium, tmp_path, chat=False) as opened:
        page = opened.page
        await page.ask("the quick brown")
        await page.until("document.querySelector('.failed')")
        assert await page.text(".failed p") == "This model has no chat template. It can still continue plain text."
        opened.script.feed(" fox", None)
        await page.click(".failed button")
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
        await page.until("document.querySelector('.failed')")
        assert await page.text(".failed p") == asks
        await page.click("#open-settings")
        await page.click("#key")
        await page.do("Input.insertText", text="the-key-0123456789")
        await page.click("#open-settings")
        await page.click(".failed button")
        await page.until(f"{IDLE} && {ANSWER} !== ''")
        await page.until("document.querySelector('#status.ready')")
        # the tab keeps it, and neither the page nor the browser does
        await page.open(str(split.client.http.base_url))
        await page.until("document.querySelector('#status.ready')")
        assert await page.value("sessionStorage.getItem('api-key')") == "the-key-0123456789"
        assert "the-key-0123456789" not in await page.value("JSON.stringify(localStorage)")
        assert "the-key-0123456789" not in await page.value("document.documentElement.outerHTML + location.href")
