import asyncio

import pytest

from splitlearn_cli.load.drive import run_level, warm_up
from splitlearn_cli.load.plan import Level, Load, PlannedRequest
from splitlearn_cli.load.record import Record


def requests(count: int, *, due: float | None = None) -> tuple[PlannedRequest, ...]:
    return tuple(PlannedRequest(number, "the", 1, due) for number in range(count))


class Endpoint:
    """Ends each request only when it is told to; knows how many are under way."""

    def __init__(self, width: int) -> None:
        self.under_way = 0
        self.most = 0
        self._meeting = asyncio.Barrier(width)

    async def ask(self, request: PlannedRequest, _began: float) -> Record:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        # nobody goes on before `width` requests are here at once
        await self._meeting.wait()
        self.under_way -= 1
        return Record(request.number, 0.0, request.due, 1.0)


@pytest.mark.parametrize("width", [1, 3, 12])
async def test_a_closed_loop_keeps_exactly_its_number_of_requests_in_flight(width: int) -> None:
    endpoint, ended = Endpoint(width), list[int]()
    level = Level(Load("concurrency", width), (), requests(12))

    await run_level(level, endpoint.ask, lambda record: ended.append(record.number))

    assert endpoint.most == width
    assert sorted(ended) == list(range(12))


async def test_an_open_loop_sends_what_is_due_however_many_are_under_way() -> None:
    endpoint, ended = Endpoint(50), list[int]()
    level = Level(Load("rate", 1000.0), (), requests(50, due=0.001))

    await run_level(level, endpoint.ask, lambda record: ended.append(record.number))

    assert (endpoint.most, len(ended)) == (50, 50)


async def test_a_warm_up_is_as_wide_as_its_level() -> None:
    endpoint = Endpoint(3)

    records = await warm_up(Level(Load("concurrency", 3), requests(6), ()), endpoint.ask)

    assert (endpoint.most, len(records)) == (3, 6)


async def test_a_warm_up_at_a_rate_goes_one_by_one() -> None:
    endpoint = Endpoint(1)

    records = await warm_up(Level(Load("rate", 9.0), requests(4), ()), endpoint.ask)

    assert (endpoint.most, [record.number for record in records]) == (1, [0, 1, 2, 3])


async def test_no_warm_up_and_a_level_narrower_than_its_load_both_end() -> None:
    endpoint, ended = Endpoint(2), list[int]()
    level = Level(Load("concurrency", 5), (), requests(2))

    assert await warm_up(level, endpoint.ask) == []
    await run_level(level, endpoint.ask, lambda record: ended.append(record.number))

    assert endpoint.most == 2
