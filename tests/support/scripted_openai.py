"""An OpenAI endpoint behind a real HTTP server whose behaviour is chosen by the name of the model that is asked.

steady    streams `max_tokens` chunks, then usage if asked for, then [DONE]
untold    the same without usage
busy      429 with Retry-After
broken    500
hangup    two chunks, then the connection is gone
silent    takes the request and never answers
plain     200 and JSON without a stream
"""

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn

from support.whole_shutdown import WholeShutdown

RETRY_AFTER = "7"
PROMPT_TOKENS = 11


@dataclass
class Asked:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass
class ScriptedOpenAI:
    """What was asked, and how many at a time. With `together` N, answers begin when N requests wait for theirs."""

    url: str = ""
    models: tuple[str, ...] = ("steady", "other")
    asked: list[Asked] = field(default_factory=list)
    answers_before_silence: int | None = None
    fell_silent: threading.Event = field(default_factory=threading.Event)
    under_way: int = 0
    most_under_way: int = 0
    _barrier: asyncio.Barrier | None = None

    def together(self, count: int) -> None:
        self._barrier = asyncio.Barrier(count)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] == "GET":
            return await _whole(send, 200, {"data": [{"id": name} for name in self.models]})
        body = json.loads(await _body(receive))
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.asked.append(Asked(scope["path"], headers, body))
        model = body["model"]
        if model == "silent" or len(self.asked) - 1 == self.answers_before_silence:
            self.fell_silent.set()
            await _until_hung_up(receive)
            return None
        if model == "busy":
            return await _whole(send, 429, _error("too many requests"), RETRY_AFTER)
        if model == "broken":
            return await _whole(send, 500, _error("out of order"))
        if model == "plain":
            return await _whole(send, 200, {"choices": []})
        return await self._stream(send, scope["path"].startswith("/v1/chat"), body)

    async def _stream(self, send: Any, chat: bool, body: dict[str, Any]) -> None:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        if self._barrier is not None:
            await self._barrier.wait()
        await _start(send, 200, "text/event-stream")
        hangs_up = body["model"] == "hangup"
        for number in range(2 if hangs_up else body["max_tokens"]):
            await _event(send, {"choices": [_choice(chat, f"word{number} ", None)]})
        if not hangs_up:
            await _event(send, {"choices": [_choice(chat, "", "length")]})
            if body["model"] == "steady" and body["stream_options"]["include_usage"]:
                usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": body["max_tokens"]}
                await _event(send, {"choices": [], "usage": usage})
        # counted off before the end is sent, because whoever reads it may ask again at once
        self.under_way -= 1
        if not hangs_up:
            await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


@contextmanager
def scripted_openai() -> Iterator[ScriptedOpenAI]:
    """Serves on a free port of loopback, on a thread of its own."""
    app = ScriptedOpenAI()
    server = WholeShutdown(
        uvicorn.Config(app, port=0, lifespan="off", log_config=None, access_log=False, timeout_graceful_shutdown=1)
    )
    # the test reads the command's own lines on the same stderr
    log = logging.getLogger("uvicorn.error")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    listening = server.config.bind_socket()
    app.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        yield app
    finally:
        server.should_exit = True
        thread.join()
        listening.close()
        log.setLevel(level)


def _choice(chat: bool, text: str, reason: str | None) -> dict[str, Any]:
    said = {"delta": {"content": text}} if chat else {"text": text}
    return {"index": 0, "finish_reason": reason, **said}


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "code": "scripted"}}


async def _body(receive: Any) -> bytes:
    data, more = b"", True
    while more:
        message = await receive()
        data, more = data + message["body"], message["more_body"]
    return data


async def _until_hung_up(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _start(send: Any, status: int, kind: str, retry_after: str | None = None) -> None:
    headers = [(b"content-type", kind.encode())]
    if retry_after is not None:
        headers.append((b"retry-after", retry_after.encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def _event(send: Any, body: dict[str, Any]) -> None:
    data = f"data: {json.dumps(body)}\n\n".encode()
    await send({"type": "http.response.body", "body": data, "more_body": True})


async def _whole(send: Any, status: int, body: dict[str, Any], retry_after: str | None = None) -> None:
    await _start(send, status, "application/json", retry_after)
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})
