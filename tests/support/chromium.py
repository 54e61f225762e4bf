"""A headless Chromium for tests, driven over the DevTools protocol on inherited descriptors.

`--remote-debugging-pipe`: JSON messages, each closed by a zero byte.
"""

import asyncio
import itertools
import json
import os
import shutil
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

Json = dict[str, Any]

# Windows' virtual key codes, and the text that a key enters
_KEYS = {"Enter": (13, "\r"), "Escape": (27, ""), "ArrowLeft": (37, ""), "ArrowUp": (38, ""), "ArrowRight": (39, "")}

PATIENCE = 60.0
# .ci/run looks for the same
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, PROGRAMS)), None)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --remote-debugging-pipe"
)


class Chromium:
    """One browser process; a thread of its own reads what it says."""

    def __init__(self, program: str, profile: Path) -> None:
        self._line, its_end = socket.socketpair()
        quiet = [(os.POSIX_SPAWN_OPEN, output, os.devnull, os.O_WRONLY, 0) for output in (1, 2)]
        # the protocol fixes the numbers: it listens on 3 and answers on 4
        talk = [(os.POSIX_SPAWN_DUP2, its_end.fileno(), number) for number in (3, 4)]
        command = [program, *FLAGS.split(), f"--user-data-dir={profile}", "about:blank"]
        self._process = os.posix_spawn(program, command, os.environ, file_actions=[*quiet, *talk])
        its_end.close()
        self._waiting: dict[int, Future[Json]] = {}
        self._numbers = itertools.count()
        self.listeners: dict[str, Callable[[Json], None]] = {}
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    async def ask(self, method: str, session: str | None = None, **params: Any) -> Json:
        """What the browser answers, for a page's session or for itself."""
        async with asyncio.timeout(PATIENCE):
            answer = await asyncio.wrap_future(self._send(method, params, session))
        assert "result" in answer, answer["error"]["message"]
        return answer["result"]

    def _send(self, method: str, params: Json, session: str | None = None) -> "Future[Json]":
        number = next(self._numbers)
        answer = self._waiting[number] = Future()
        message = {"id": number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        self._line.sendall(json.dumps(message).encode() + b"\0")
        return answer

    def close(self) -> None:
        self._send("Browser.close", {})
        os.waitpid(self._process, 0)
        self._reader.join()
        self._line.close()

    def _read(self) -> None:
        rest = b""
        while heard := self._line.recv(65536):
            *messages, rest = (rest + heard).split(b"\0")
            for message in messages:
                self._take(json.loads(message))
        for answer in self._waiting.values():
            # who asked may have given up
            with suppress(InvalidStateError):
                answer.set_exception(ConnectionError("Chromium has ended"))

    def _take(self, message: Json) -> None:
        if "id" in message:
            with suppress(InvalidStateError):
                self._waiting.pop(message["id"]).set_result(message)
        elif listener := self.listeners.get(message.get("sessionId", "")):
            listener(message)


class Page:
    """One tab."""

    def __init__(self, chromium: Chromium, session: str) -> None:
        self._chromium = chromium
        self._session = session
        self._loaded = asyncio.Event()
        self.complaints: list[str] = []
        loop = asyncio.get_running_loop()
        chromium.listeners[session] = lambda event: loop.call_soon_threadsafe(self._hear, event) and None

    async def do(self, method: str, **params: Any) -> Json:
        return await self._chromium.ask(method, self._session, **params)

    async def open(self, address: str) -> None:
        """Returns when the page has loaded."""
        for domain in ("Page", "Runtime", "Log"):
            await self.do(f"{domain}.enable")
        self._loaded.clear()
        await self.do("Page.navigate", url=address)
        async with asyncio.timeout(PATIENCE):
            await self._loaded.wait()

    async def value(self, expression: str) -> Any:
        """What a JavaScript expression comes to."""
        answer = await self.do("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def until(self, condition: str) -> None:
        """Waits for the change of the document that makes a JavaScript condition true."""
        try:
            await self.value(f"""new Promise((done) => {{
                const look = () => ({condition}) && (watching.disconnect(), done(true));
                const watching = new MutationObserver(look);
                const all = {{subtree: true, childList: true, characterData: true, attributes: true}};
                watching.observe(document, all);
                look();
            }})""")
        except TimeoutError:
            pytest.fail(f"never true: {condition}\non the page: {await self.value('document.body.innerText')}")

    async def text(self, selector: str) -> str:
        return str(await self.value(f"document.querySelector({selector!r})?.textContent ?? ''"))

    async def write(self, text: str) -> None:
        await self.value("document.getElementById('draft').focus()")
        await self.do("Input.insertText", text=text)

    async def press(self, name: str, *, shift: bool = False, control: bool = False) -> None:
        """Presses a key by its name in KeyboardEvent.key: Enter, Escape, ArrowUp, or a character."""
        code, text = _KEYS.get(name, (ord(name[0].upper()), name))
        modifiers = 8 * shift + 2 * control
        key = {"key": name, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        await self.do("Input.dispatchKeyEvent", type="keyDown", **key, **({"text": text} if not control else {}))
        await self.do("Input.dispatchKeyEvent", type="keyUp", **key)

    async def ask(self, question: str) -> None:
        await self.write(question)
        await self.press("Enter")

    async def click(self, selector: str) -> None:
        """Presses the mouse in the middle of what the selector finds, whatever lies on top there."""
        found = f"document.querySelector({selector!r})"
        await self.value(f"{found}.scrollIntoView({{block: 'nearest'}})")
        box = await self.value(f"{found}.getBoundingClientRect().toJSON()")
        middle = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        for kind in ("mousePressed", "mouseReleased"):
            await self.do("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **middle)

    def _hear(self, event: Json) -> None:
        method, params = event["method"], event["params"]
        if method == "Page.loadEventFired":
            self._loaded.set()
        level = params.get("type") or params.get("entry", {}).get("level")
        shown = method in ("Runtime.consoleAPICalled", "Log.entryAdded") and level in ("error", "warning", "assert")
        if shown or method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(params))
