import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from splitlearn_client.choices import merged
from support.running_split import until


class Stream:
    """Yields its items after so many turns of the loop each, and knows whether it was closed."""

    def __init__(self, items: list[int], turns: int = 0, error: Exception | None = None) -> None:
        self.items, self.turns, self.error = items, turns, error
        self.is_open = False

    async def run(self) -> AsyncGenerator[int]:
        self.is_open = True
        try:
            for item in self.items:
                for _ in range(self.turns):
                    await asyncio.sleep(0)
                yield item
            if self.error is not None:
                raise self.error
        finally:
            self.is_open = False


async def found(streams: list[Stream], at_once: int = 8) -> list[tuple[int, int]]:
    async with aclosing(merged([stream.run() for stream in streams], at_once)) as items:
        return [each async for each in items]


@pytest.mark.parametrize("seed", range(20))
async def test_every_stream_comes_whole_and_in_its_order(seed: int) -> None:
    dice = random.Random(seed)
    streams = [Stream(list(range(dice.randrange(200))), dice.randrange(4)) for _ in range(dice.randrange(1, 12))]
    items = await found(streams, dice.randrange(1, 6))
    for number, stream in enumerate(streams):
        assert [item for at, item in items if at == number] == stream.items
    assert len(items) == sum(len(stream.items) for stream in streams)
    assert not any(stream.is_open for stream in streams)


async def test_streams_run_side_by_side_as_many_as_may() -> None:
    streams = [Stream([1, 2, 3], 3) for _ in range(5)]
    most = 0
    async with aclosing(merged([stream.run() for stream in streams], 2)) as items:
        async for _ in items:
            most = max(most, sum(stream.is_open for stream in streams))
    assert most == 2
    assert [number for number, _ in await found([Stream([1, 2, 3], 3) for _ in range(2)])] != [0, 0, 0, 1, 1, 1]


async def test_an_error_of_one_is_raised_and_closes_the_others() -> None:
    streams = [Stream(list(range(100)), 1), Stream([1], 2, ZeroDivisionError("own")), Stream(list(range(100)), 1)]
    with pytest.raises(ZeroDivisionError, match="own"):
        await found(streams)
    assert not any(stream.is_open for stream in streams)


async def test_who_stops_reading_closes_all() -> None:
    streams = [Stream(list(range(1000))) for _ in range(3)]
    async with aclosing(merged([stream.run() for stream in streams], 3)) as items:
        await anext(items)
        assert any(stream.is_open for stream in streams)
    assert not any(stream.is_open for stream in streams)


async def test_who_reads_slowly_keeps_the_streams_waiting() -> None:
    stream = Stream(list(range(10_000)))
    made = 0

    async def counted() -> AsyncGenerator[int]:
        nonlocal made
        async for item in stream.run():
            made += 1
            yield item

    async with aclosing(merged([counted()], 1)) as items:
        await anext(items)
        for _ in range(1000):
            await asyncio.sleep(0)
        assert made < 100


async def test_a_cancelled_reader_leaves_nothing_open() -> None:
    streams = [Stream(list(range(1000)), 1) for _ in range(3)]
    reading = asyncio.create_task(found(streams))
    await until(lambda: all(stream.is_open for stream in streams))
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert not any(stream.is_open for stream in streams)


async def test_a_stream_goes_on_while_its_item_is_told_but_not_far() -> None:
    made: list[int] = []

    async def numbers() -> AsyncGenerator[int]:
        for number in range(20):
            made.append(number)
            yield number

    async with aclosing(merged([numbers()], 1)) as items:
        assert await anext(items) == (0, 0)
        for _ in range(50):
            await asyncio.sleep(0)
        # the one that was told, two that wait, and one for which there is no place yet
        assert made == [0, 1, 2, 3]
