"""When a stream is used again. What goes over it is tested in test_client.py, over a real one."""

import asyncio
import itertools

import pytest

from splitlearn_comm.byte_stream import ByteStream
from splitlearn_comm.compute_streams import ComputeStreams
from splitlearn_comm.errors import Overloaded


class Stream(ByteStream):
    """Answers with its own number, or raises what it was sent."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.cancelled = False

    @property
    def ended(self) -> bool:
        return self.cancelled

    async def exchange(self, data: bytes, timeout: float | None = None) -> bytes:
        if data:
            raise Overloaded(data.decode())
        await asyncio.sleep(0)
        return bytes([self.number])

    def cancel(self) -> None:
        self.cancelled = True


def streams(**options: float) -> tuple[ComputeStreams, list[Stream]]:
    numbers, opened = itertools.count(), []

    def open_one() -> Stream:
        opened.append(Stream(next(numbers)))
        return opened[-1]

    return ComputeStreams(open_one, **options), opened


async def asked(pool: ComputeStreams) -> int:
    return (await pool.exchange(b"", None))[0]


async def test_one_call_after_the_other_uses_one_stream() -> None:
    pool, opened = streams()

    assert [await asked(pool) for _ in range(3)] == [0, 0, 0]
    assert len(opened) == 1


async def test_calls_at_a_time_have_a_stream_each() -> None:
    pool, _ = streams()

    assert sorted(await asyncio.gather(*(asked(pool) for _ in range(3)))) == [0, 1, 2]
    assert await asked(pool) in (0, 1, 2)


async def test_a_stream_that_failed_is_given_up() -> None:
    pool, opened = streams()
    with pytest.raises(Overloaded):
        await pool.exchange(b"no", None)

    assert opened[0].cancelled
    assert await asked(pool) == 1


async def test_a_stream_that_ended_while_it_was_idle_is_not_used() -> None:
    pool, opened = streams()
    await asked(pool)
    opened[0].cancelled = True

    assert await asked(pool) == 1


async def test_a_stream_that_is_too_old_is_let_go() -> None:
    pool, opened = streams(reuse_seconds=0.0)

    assert [await asked(pool), await asked(pool)] == [0, 1]
    assert opened[0].cancelled
