"""Sends a level's requests as its load says. Owns the tasks: when a function returns, none of them is left."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from splitlearn_cli.load.plan import Level, PlannedRequest
from splitlearn_cli.load.record import Record

Ask = Callable[[PlannedRequest, float], Awaitable[Record]]
Done = Callable[[Record], None]


async def warm_up(level: Level, ask: Ask) -> list[Record]:
    """The warm-up's records, for whoever wants to know how it went; as wide as the level, at a rate one by one."""
    records: list[Record] = []
    places = int(level.load.value) if level.load.kind == "concurrency" else 1
    await _closed_loop(level.warmup, places, ask, records.append)
    return records


async def run_level(level: Level, ask: Ask, done: Done) -> None:
    """Sends everything; tells `done` each record as its request ends, so that an interrupted level keeps them."""
    if level.load.kind == "concurrency":
        await _closed_loop(level.requests, int(level.load.value), ask, done)
    else:
        await _open_loop(level.requests, ask, done)


async def _closed_loop(requests: Sequence[PlannedRequest], places: int, ask: Ask, done: Done) -> None:
    """A place sends its next request when its last one has ended."""
    began = time.perf_counter()
    waiting = iter(requests)

    async def place() -> None:
        for request in waiting:
            done(await ask(request, began))

    async with asyncio.TaskGroup() as group:
        for _ in range(min(places, len(requests))):
            group.create_task(place())


async def _open_loop(requests: Sequence[PlannedRequest], ask: Ask, done: Done) -> None:
    """Each request is sent when it is due, however many are under way."""
    began = time.perf_counter()

    async def send(request: PlannedRequest) -> None:
        done(await ask(request, began))

    async with asyncio.TaskGroup() as group:
        for request in requests:
            await asyncio.sleep(began + (request.due or 0.0) - time.perf_counter())
            group.create_task(send(request))
