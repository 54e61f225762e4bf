"""The browser that drives the chat page."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from support.chat_scene import needs_chromium, tab
from support.chromium import PATIENCE, Chromium

pytestmark = needs_chromium

PAGE = b"<!doctype html><link rel=stylesheet href=late.css><link rel=icon href=data:,>"


@dataclass
class Site:
    """A page with a style sheet that comes when the test says so."""

    address: str = ""
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    may_come: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        is_page = head.startswith(b"GET / ")
        if not is_page:
            self.asked.set()
            await self.may_come.wait()
        kind, body = (b"text/html", PAGE) if is_page else (b"text/css", b"")
        lines = (b"HTTP/1.1 200 OK", b"Connection: close", b"Cache-Control: no-store", b"Content-Type: " + kind)
        writer.write(b"\r\n".join((*lines, b"Content-Length: %d" % len(body), b"", body)))
        writer.close()


@asynccontextmanager
async def site() -> AsyncIterator[Site]:
    made = Site()
    async with await asyncio.start_server(made.answer, "127.0.0.1", 0) as server:
        made.address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        yield made


async def test_a_page_that_is_opened_once_more_has_loaded_too(chromium: Chromium) -> None:
    async with site() as late:
        late.may_come.set()
        async with tab(chromium, late.address) as page:
            late.may_come.clear()
            late.asked.clear()
            opening = asyncio.create_task(page.open(late.address))
            async with asyncio.timeout(PATIENCE):
                await late.asked.wait()
            # the browser says this after what it says of the navigation
            assert await page.value("document.readyState") != "complete"
            assert not opening.done()
            late.may_come.set()
            await opening
            assert await page.value("document.readyState") == "complete"
