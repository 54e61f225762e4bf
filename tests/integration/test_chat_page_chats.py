"""The chat page: several chats, which the browser keeps, and questions that are changed."""

import asyncio
import json
from typing import Any

import pytest

from splitlearn_client.errors import TrunkFailed, TrunkNotReady
from support.chat_scene import ANSWER, IDLE, LAST_TOOLS, QUESTIONS, Scene, done, needs_chromium, talk
from support.chromium import PATIENCE

pytestmark = needs_chromium

TITLES = "[...document.querySelectorAll('#list .title')].map((each) => each.textContent)"
ANSWERS = "[...document.querySelectorAll('.answer')].map((each) => each.textContent.trim())"
KEPT = "Object.keys(localStorage).filter((key) => key.startsWith('splitlearn.chat.')).length"


async def press_button(scene: Scene, label: str, within: str) -> None:
    buttons = f"[...document.querySelectorAll('{within} button')]"
    await scene.page.value(f"{buttons}.find((each) => each.textContent === {label!r}).click()")


async def open_chat(scene: Scene, title: str) -> None:
    await press_button(scene, title, "#list")


async def reload(scene: Scene) -> None:
    await scene.page.open(await scene.page.value("location.href"))
    await scene.page.until("document.querySelector('#status.ready')")


async def kept(scene: Scene) -> list[Any]:
    """The chats in the browser, latest first."""
    entries = json.loads(await scene.page.value("JSON.stringify(localStorage)"))
    chats = [json.loads(value) for key, value in entries.items() if key.startswith("splitlearn.chat.")]
    return sorted(chats, key=lambda chat: -float(chat["changed"]))


async def test_chats_are_there_again_when_the_page_is_and_can_be_continued(open_page: Scene) -> None:
    page = open_page.page
    await talk(open_page, ("one", "eins"), ("two", "zwei"))
    await page.click("#new")
    await talk(open_page, ("red", "rot"))
    await reload(open_page)
    assert await page.value(TITLES) == ["red", "one"]
    assert await page.value(QUESTIONS) == []
    await open_chat(open_page, "one")
    assert await page.value(QUESTIONS) == ["one", "two"]
    assert await page.value(ANSWERS) == ["eins", "zwei"]
    await talk(open_page, ("three", "drei"))
    assert open_page.prompt(-1) == "user: one\nassistant: eins\nuser: two\nassistant: zwei\nuser: three\nassistant:"
    assert await page.value(TITLES) == ["one", "red"]
    # the measurements are kept too
    await open_chat(open_page, "red")
    await press_button(open_page, "Where the time went", LAST_TOOLS)
    assert "48.2 kB" in await page.text(".picture")


async def test_each_chat_has_its_system_prompt_and_a_new_one_begins_with_the_last(open_page: Scene) -> None:
    page = open_page.page
    system = "document.getElementById('system')"
    await page.value(f"{system}.value = 'Be short.'")
    await talk(open_page, ("one", "eins"))
    await page.click("#new")
    assert await page.value(f"{system}.value") == "Be short."
    await page.value(f"{system}.value = 'Be long.'")
    await talk(open_page, ("two", "zwei"))
    await open_chat(open_page, "one")
    assert await page.value(f"{system}.value") == "Be short."
    assert open_page.prompt(1).startswith("system: Be long.\n")


async def test_a_chat_is_deleted_alone_or_with_all_others(open_page: Scene) -> None:
    page = open_page.page
    for word in ("one", "two", "three"):
        await page.click("#new")
        await talk(open_page, (word, word))
    await page.value("document.querySelectorAll('#list .remove')[1].click()")
    assert await page.value(TITLES) == ["three", "one"]
    assert await page.value(QUESTIONS) == ["three"]
    await page.value("document.querySelectorAll('#list .remove')[0].click()")
    await page.until(f"{QUESTIONS}.length === 0")
    assert await page.value(TITLES) == ["one"]
    for answer, left in ((False, ["one"]), (True, [])):
        await page.value(f"window.confirm = () => {json.dumps(answer)}")
        await page.click("#delete-all")
        assert await page.value(TITLES) == left
    assert await kept(open_page) == []


async def test_the_last_question_is_changed_in_its_place(open_page: Scene) -> None:
    page = open_page.page
    await talk(open_page, ("one", "eins"), ("tow", "Tau"))
    await page.value("document.getElementById('draft').focus()")
    await page.press("ArrowUp")
    assert await page.value("document.activeElement.value") == "tow"
    await page.press("Escape")
    assert await page.value(QUESTIONS) == ["one", "tow"]
    assert await page.value("document.activeElement.id") == "draft"
    await page.press("ArrowUp")
    await page.value("document.activeElement.select()")
    await page.do("Input.insertText", text="two")
    await page.press("Enter")
    open_page.script.feed("zwei", None)
    await done(open_page, "zwei")
    assert await page.value(QUESTIONS) == ["one", "two"]
    assert open_page.prompt(-1) == "user: one\nassistant: eins\nuser: two\nassistant:"
    assert await page.value(TITLES) == ["one"]


@pytest.mark.parametrize("in_the_browser", [True, False])
async def test_an_earlier_question_is_changed_in_a_new_chat_and_the_old_one_stays(
    open_page: Scene, in_the_browser: bool
) -> None:
    page = open_page.page
    if not in_the_browser:
        await page.value("document.getElementById('keep').click()")
    await talk(open_page, ("one", "eins"), ("two", "zwei"))
    await press_button(open_page, "Edit", ".turn:first-child .question, .turn .question")
    await page.value("document.activeElement.select()")
    await page.do("Input.insertText", text="uno")
    await page.press("Enter")
    open_page.script.feed("ein", None)
    await done(open_page, "ein")
    assert await page.value(QUESTIONS) == ["uno"]
    assert await page.value(TITLES) == ["uno", "one"]
    assert open_page.prompt(-1) == "user: uno\nassistant:"
    await open_chat(open_page, "one")
    assert await page.value(QUESTIONS) == ["one", "two"]
    assert await page.value(ANSWERS) == ["eins", "zwei"]


async def test_the_last_question_is_asked_again_and_an_earlier_one_in_a_new_chat(open_page: Scene) -> None:
    page = open_page.page
    await talk(open_page, ("one", "eins"), ("two", "zwei"))
    await press_button(open_page, "Ask again", LAST_TOOLS)
    open_page.script.feed("deux", None)
    await done(open_page, "deux")
    assert await page.value(ANSWERS) == ["eins", "deux"]
    assert open_page.prompt(2) == open_page.prompt(1)
    await press_button(open_page, "Ask again", ".turn > .tools")
    open_page.script.feed("un", None)
    await done(open_page, "un")
    assert await page.value(QUESTIONS) == ["one"]
    assert [len(chat["turns"]) for chat in await kept(open_page)] == [1, 2]


async def test_a_chat_that_is_left_keeps_what_has_come_and_a_deleted_one_does_not_come_back(open_page: Scene) -> None:
    page, script = open_page.page, open_page.script
    await page.ask("left")
    script.feed("half an")
    await page.until(f"{ANSWER} === 'half an'")
    await page.click("#new")
    async with asyncio.timeout(PATIENCE):
        await script.closed.wait()
    assert (await kept(open_page))[0]["turns"][0]["answer"] == "half an"
    script.closed.clear()
    await page.ask("deleted")
    script.feed("so far")
    await page.until(f"{ANSWER} === 'so far'")
    await page.value("document.querySelector('#list .current .remove').click()")
    async with asyncio.timeout(PATIENCE):
        await script.closed.wait()
    await talk(open_page, ("next", "now"))
    assert await page.value(TITLES) == ["next", "left"]
    assert len(await kept(open_page)) == 2


async def test_a_page_that_is_closed_in_the_middle_keeps_what_has_come(open_page: Scene) -> None:
    await open_page.page.ask("go on")
    open_page.script.feed("half an")
    await open_page.page.until(f"{ANSWER} === 'half an'")
    await reload(open_page)
    await open_chat(open_page, "go on")
    assert await open_page.page.value(ANSWERS) == ["half an"]


async def test_the_title_of_the_chat_on_screen_does_not_disturb_its_answer(open_page: Scene) -> None:
    page, script = open_page.page, open_page.script
    await page.ask("go on")
    script.feed("half an")
    await page.until(f"{ANSWER} === 'half an'")
    await open_chat(open_page, "go on")
    script.feed(" answer", None)
    await done(open_page, "half an answer")


async def test_while_an_answer_comes_nothing_else_can_be_asked(open_page: Scene) -> None:
    page, script = open_page.page, open_page.script
    await talk(open_page, ("one", "eins"))
    await page.ask("two")
    script.feed("so far")
    await page.until(f"{ANSWER} === 'so far'")
    assert await page.value("[...document.querySelectorAll('.needs-idle')].every((each) => each.disabled)")
    # what Escape leaves is the sheet
    await page.click("#open-settings")
    await page.press("Escape")
    assert not await page.value("document.getElementById('settings').matches(':popover-open')")
    script.feed(" and on", None)
    await done(open_page, "so far and on")
    assert not await page.value("[...document.querySelectorAll('.needs-idle')].some((each) => each.disabled)")


@pytest.mark.parametrize("end", ["failure", "stop", "new chat"])
async def test_a_good_answer_comes_back_if_asking_again_ends_before_anything_came(open_page: Scene, end: str) -> None:
    page, script = open_page.page, open_page.script
    await talk(open_page, ("one", "eins"))
    before = (await kept(open_page))[0]["turns"]
    await press_button(open_page, "Ask again", LAST_TOOLS)
    await page.until(f"{ANSWERS}[0] === ''")
    if end == "failure":
        script.feed(TrunkNotReady("gone"))
        await page.until("document.querySelector('.failed')")
    else:
        await page.click("#go" if end == "stop" else "#new")
    await page.until(IDLE)
    assert (await kept(open_page))[0]["turns"] == before
    await open_chat(open_page, "one")
    assert await page.value(ANSWERS) == ["eins"]


async def test_the_answer_to_another_question_does_not_come_back(open_page: Scene) -> None:
    page = open_page.page
    await talk(open_page, ("one", "eins"))
    await page.press("ArrowUp")
    await page.do("Input.insertText", text="two")
    await page.press("Enter")
    await page.click("#go")
    await page.until(IDLE)
    assert await page.value(ANSWERS) == [""]
    assert await page.text(".numbers") == "stopped"


async def test_plain_completions_are_no_part_of_a_chat(open_page: Scene) -> None:
    page = open_page.page
    await page.value("document.getElementById('plain').click()")
    await talk(open_page, ("the quick", " brown"))
    await page.value("document.getElementById('plain').click()")
    await talk(open_page, ("one", "eins"))
    assert open_page.prompt(0) == "the quick"
    assert open_page.prompt(1) == "user: one\nassistant:"


async def test_two_tabs_show_the_same_chats(open_page: Scene) -> None:
    page = open_page.page
    await talk(open_page, ("one", "eins"))
    # as another tab changes them: the event goes to all tabs but that one
    changed = """((change) => {
        const key = Object.keys(localStorage).find((each) => each.startsWith('splitlearn.chat.'));
        change(key);
        dispatchEvent(new StorageEvent('storage', { key }));
    })"""
    await page.value(f"""{changed}((key) => {{
        const chat = JSON.parse(localStorage[key]);
        chat.turns.push({{ ...chat.turns[0], question: 'two', answer: 'zwei' }});
        localStorage[key] = JSON.stringify(chat);
    }})""")
    assert await page.value(QUESTIONS) == ["one", "two"]
    # a change of the settings does not write the chat
    await page.value("document.getElementById('probabilities').click()")
    await page.value(f"{changed}((key) => localStorage.removeItem(key))")
    assert await page.value(QUESTIONS) == []
    assert await page.value(TITLES) == []
    await reload(open_page)
    assert await page.value(TITLES) == []


async def test_a_failed_answer_is_kept_as_far_as_it_came(open_page: Scene) -> None:
    await open_page.page.ask("go on")
    open_page.script.feed("half an", TrunkFailed("gone"))
    await open_page.page.until("document.querySelector('.failed')")
    assert (await kept(open_page))[0]["turns"][0]["answer"] == "half an"


async def test_chats_that_are_not_to_be_kept_are_lost_with_the_tab(open_page: Scene) -> None:
    page = open_page.page
    await page.value("document.getElementById('keep').click()")
    await talk(open_page, ("one", "eins"))
    await page.click("#new")
    await talk(open_page, ("two", "zwei"))
    assert await page.value(TITLES) == ["two", "one"]
    await open_chat(open_page, "one")
    assert await page.value(ANSWERS) == ["eins"]
    assert await page.value(KEPT) == 0
    await reload(open_page)
    assert await page.value(TITLES) == []
    assert not await page.value("document.getElementById('keep').checked")


async def test_chats_that_were_kept_stay_when_new_ones_are_not(open_page: Scene) -> None:
    page = open_page.page
    await talk(open_page, ("one", "eins"))
    await page.value("document.getElementById('keep').click()")
    await talk(open_page, ("two", "zwei"))
    await page.click("#new")
    await talk(open_page, ("three", "drei"))
    await reload(open_page)
    assert await page.value(TITLES) == ["one"]
    await open_chat(open_page, "one")
    assert await page.value(ANSWERS) == ["eins", "zwei"]


async def test_a_full_browser_is_told_of_and_the_chat_goes_on(open_page: Scene) -> None:
    page = open_page.page
    await talk(open_page, ("zero", "null"))
    await page.value("""for (let size = 2 ** 23, n = 0; size; size >>= 1) {
        try { localStorage.setItem(`fill${n++}`, 'x'.repeat(size)) } catch {}
    }""")
    await talk(open_page, ("one", "eins"), ("two", "zwei"))
    assert not await page.value("document.getElementById('unsaved').hidden")
    assert await page.value(ANSWERS) == ["null", "eins", "zwei"]
    assert await page.value(TITLES) == ["zero"]
    # what was kept before is not lost
    assert len((await kept(open_page))[0]["turns"]) >= 1
    await page.value("Object.keys(localStorage).filter((key) => key.startsWith('fill'))"
                     ".forEach((key) => localStorage.removeItem(key))")  # fmt: skip
    await talk(open_page, ("three", "drei"))
    assert await page.value("document.getElementById('unsaved').hidden")
    assert len((await kept(open_page))[0]["turns"]) == 4


async def test_what_other_pages_of_the_same_address_keep_is_left_alone(open_page: Scene) -> None:
    page = open_page.page
    strange = {
        "splitlearn.chat.a": "no json",
        "splitlearn.chat.b": "null",
        "splitlearn.chat.c": json.dumps({"version": 99, "id": "c", "turns": []}),
        "splitlearn.chat.d": json.dumps({"version": 1, "id": "d", "changed": 1, "system": "", "turns": [{}]}),
        "splitlearn.chat.e": json.dumps({"version": 1, "id": "other", "changed": 1, "system": "", "turns": []}),
        "splitlearn.settings": "[1",
        "other": "theirs",
    }
    for key, value in strange.items():
        await page.value(f"localStorage.setItem({key!r}, {value!r})")
    await reload(open_page)
    assert await page.value(TITLES) == []
    await talk(open_page, ("one", "eins"))
    await page.click("#delete-all")
    left = json.loads(await page.value("JSON.stringify(localStorage)"))
    assert {key: left.get(key) for key in strange} == strange
    assert page.complaints == []


async def test_all_chats_are_exported_as_a_file(open_page: Scene) -> None:
    page = open_page.page
    await page.value("document.getElementById('system').value = 'Be short.'")
    await page.ask("one")
    open_page.script.feed("*eins*", None)
    await done(open_page, "eins")
    await page.value("""(() => {
        const make = URL.createObjectURL;
        URL.createObjectURL = (blob) => { window.exported = blob; return make(blob); };
        HTMLAnchorElement.prototype.click = function () { window.named = this.download; };
    })()""")
    await page.click("#export")
    assert await page.value("window.named") == "splitlearn-chats.json"
    file = json.loads(await page.value("window.exported.text()"))
    assert file["format"] == "splitlearn.chats"
    (chat,) = file["chats"]
    assert chat["title"] == "one"
    assert chat["messages"] == [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "*eins*"},
    ]
    assert chat["turns"][0]["measured"]["wire_bytes_sent"] == 48_200


async def test_settings_are_there_again_when_the_page_is(open_page: Scene) -> None:
    page = open_page.page
    await page.value("document.getElementById('probabilities').click()")
    for name, value in (("temperature", "0.7"), ("max-tokens", "99")):
        field = f"document.getElementById('{name}')"
        await page.value(f"{field}.value = {value!r}; {field}.dispatchEvent(new Event('change', {{bubbles: true}}))")
    await reload(open_page)
    assert await page.value("document.getElementById('temperature').value") == "0.7"
    assert await page.value("document.getElementById('max-tokens').value") == "99"
    assert await page.value("document.getElementById('probabilities').checked")


async def test_the_page_is_used_by_keys(open_page: Scene) -> None:
    page = open_page.page
    await talk(open_page, ("one", "eins"))
    await page.value("document.getElementById('page').focus()")
    await page.press("/")
    assert await page.value("document.activeElement.id") == "draft"
    assert await page.value("document.activeElement.value") == ""
    await page.press("O", shift=True, control=True)
    await page.until(f"{QUESTIONS}.length === 0")
    await page.ask("go on")
    open_page.script.feed("so far")
    await page.until(f"{ANSWER} === 'so far'")
    await page.press("Escape")
    await page.until(IDLE)
    assert "stopped" in await page.text(".numbers")
