"""Sends a level's requests at its load. Owns the tasks: all have ended when a function returns."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from splitlearn_cli.load.plan import Level, PlannedRequest
from splitlearn_cli.load.record import Record

Ask = Callable[[PlannedRequest, float], Awaitable[Record]]
Done = Callable[[Record], None]


async def warm_up(level: Level, ask: Ask) -> list[Record]:
    """Sends the warm-up requests and returns their records. Concurrency is the level's; at a rate it is 1."""
    records: list[Record] = []
    places = int(level.load.value) if level.load.kind == "concurrency" else 1
    await _closed_loop(level.warmup, places, ask, records.append)
    return records


async def run_level(level: Level, ask: Ask, done: Done) -> None:
    """Sends all requests; calls `done` at the end of each, so that an interrupted level keeps its records."""
    if level.load.kind == "concurrency":
        await _closed_loop(level.requests, int(level.load.value), ask, done)
    else:
        await _open_loop(level.requests, ask, done)


async def _closed_loop(requests: Sequence[PlannedRequest], places: int, ask: Ask, done: Done) -> None:
    """Keeps as many requests in flight as there are places."""
    began = time.perf_counter()
    waiting = iter(requests)

    async def place() -> None:
        for request in waiting:
            done(await ask(request, began))

    async with asyncio.TaskGroup() as group:
        for _ in range(min(places, len(requests))):
            group.create_task(place())


async def _open_loop(requests: Sequence[PlannedRequest], ask: Ask, done: Done) -> None:
    """Sends each request when it is due, however many are in flight."""
    began = time.perf_counter()

    async def send(request: PlannedRequest) -> None:
        done(await ask(request, began))

    async with asyncio.TaskGroup() as group:
        for request in requests:
            await asyncio.sleep(began + (request.due or 0.0) - time.perf_counter())
            group.create_task(send(request))
