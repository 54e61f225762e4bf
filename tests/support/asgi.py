"""The ASGI side by hand: what the server would call, with full say over when the client hangs up."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]


@dataclass
class Line:
    """A client's connection: `hung_up` ends it, `stuck` makes it take nothing more."""

    sent: list[Message] = field(default_factory=list)
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)
    stuck: bool = False
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def receive(self) -> Message:
        await self.hung_up.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        self._changed.set()
        if self.stuck:
            await asyncio.Event().wait()

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Returns once `holds` is true after a message was sent."""
        async with asyncio.timeout(30):
            while not holds():
                self._changed.clear()
                await self._changed.wait()
