"""The chat page on small screens."""

import pytest

from splitlearn_client.errors import TrunkFailed
from support.chat_scene import IDLE, QUESTIONS, Scene, needs_chromium, talk

pytestmark = needs_chromium


async def test_on_a_phone_only_the_conversation_scrolls_and_its_end_stays_in_view(open_page: Scene) -> None:
    page, script = open_page.page, open_page.script
    await page.do("Emulation.setDeviceMetricsOverride", width=380, height=700, deviceScaleFactor=2, mobile=True)
    script.feed("a line\n" * 50, None)
    await page.ask("fill the screen")
    await page.until(f"{IDLE} && document.querySelector('.turn')")
    script.feed("x" * 200, TrunkFailed("y" * 200))
    await page.ask("w" * 200)
    await page.until("document.querySelector('.failed')")
    widest = "Math.max(...[...document.querySelectorAll('body *')].map((each) => each.getBoundingClientRect().right))"
    assert await page.value(widest) <= 380
    page_size = "[document.scrollingElement.scrollWidth, document.scrollingElement.scrollHeight]"
    assert await page.value(page_size) == [380, 700]
    await page.value("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    below = "document.querySelector('.failed').getBoundingClientRect().bottom"
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


async def test_the_list_is_a_sheet_on_a_phone_and_closes_when_a_chat_is_opened(open_page: Scene) -> None:
    page = open_page.page
    await talk(open_page, ("one", "eins"))
    await page.do("Emulation.setDeviceMetricsOverride", width=360, height=640, deviceScaleFactor=2, mobile=True)
    shown = "document.getElementById('chats').checkVisibility()"
    assert not await page.value(shown)
    await page.click("#open-chats")
    assert await page.value(shown)
    await page.click("#list .title")
    assert not await page.value(shown)
    assert await page.value(QUESTIONS) == ["one"]
