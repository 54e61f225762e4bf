"""The session protocol over real gRPC, on a real engine."""

import asyncio
import threading
import time
from dataclasses import replace

import pytest
import torch

import splitlearn_trunk.app
from splitlearn import errors as split
from splitlearn_comm import (
    Draining,
    FingerprintMismatch,
    Frame,
    InvalidTensor,
    Overloaded,
    PositionNotReached,
    RemoteFailure,
    SessionClosed,
    SessionOpening,
    SessionTooLong,
)
from splitlearn_trunk.endpoint import TrunkServicer, on_the_wire
from splitlearn_trunk.metrics import DRAINED
from support.running_split import RunningTrunk, busy, until

D = 64


def rows(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed))


def opening(trunk: RunningTrunk, max_length: int = 512) -> SessionOpening:
    return SessionOpening("test", trunk.fingerprint, max_length)


async def expected(trunk: RunningTrunk, hidden_TD: torch.Tensor) -> torch.Tensor:
    return (await trunk.trunk.engine.step(trunk.trunk.engine.open(), 0, hidden_TD)).output


async def test_rows_over_the_wire_equal_rows_through_the_part(trunk: RunningTrunk) -> None:
    hidden_TD = rows(7)
    async with trunk.client.stream(opening(trunk)) as stream:
        first = await stream.step(Frame(0, hidden_TD[:5]))
        second = await stream.step(Frame(5, hidden_TD[5:]))
    assert first.frame.rows is not None
    assert second.frame.rows is not None
    output = torch.cat([first.frame.rows, second.frame.rows])
    torch.testing.assert_close(output, await expected(trunk, hidden_TD), atol=1e-5, rtol=0)


async def test_a_client_of_another_model_is_refused_with_both_fingerprints(trunk: RunningTrunk) -> None:
    with pytest.raises(FingerprintMismatch) as caught:
        async with trunk.client.stream(SessionOpening("test", "another model", 512)) as stream:
            await stream.step(Frame(0, rows(1)))
    assert "another model" in str(caught.value)
    assert trunk.fingerprint in str(caught.value)
    assert trunk.value("refusals_total", error="FingerprintMismatch") == 1


@pytest.mark.parametrize(
    ("frame", "error", "words"),
    [
        (Frame(9, rows(1)), PositionNotReached, "holds 4 rows"),
        (Frame(4, rows(1).to(torch.bfloat16)), InvalidTensor, "found bfloat16"),
        (Frame(4, rows(1)[:, :9]), InvalidTensor, r"\[T, 64\]"),
        (Frame(4, torch.full((1, D), float("nan"))), InvalidTensor, "NaN"),
        (Frame(4, rows(17)), SessionTooLong, "limit is 20"),
    ],
)
async def test_a_bad_frame_is_refused_and_the_session_goes_on(
    trunk: RunningTrunk, frame: Frame, error: type[Exception], words: str
) -> None:
    hidden_TD = rows(5)
    async with trunk.client.stream(opening(trunk, max_length=20)) as stream:
        await stream.step(Frame(0, hidden_TD[:4]))
        with pytest.raises(error, match=words):
            await stream.step(frame)
        reply = await stream.step(Frame(4, hidden_TD[4:]))
    assert reply.frame.rows is not None
    torch.testing.assert_close(reply.frame.rows, (await expected(trunk, hidden_TD))[4:], atol=1e-5, rtol=0)
    assert trunk.value("refusals_total", error=error.__name__) == 1


async def test_a_frame_without_rows_truncates(trunk: RunningTrunk) -> None:
    hidden_TD, other_TD = rows(4), rows(3, seed=1)
    async with trunk.client.stream(opening(trunk)) as stream:
        await stream.step(Frame(0, torch.cat([hidden_TD, other_TD])))
        assert (await stream.step(Frame(4, None))).frame.rows is None
        reply = await stream.step(Frame(4, hidden_TD[:1]))
    assert reply.frame.rows is not None
    wanted = await expected(trunk, torch.cat([hidden_TD, hidden_TD[:1]]))
    torch.testing.assert_close(reply.frame.rows, wanted[4:], atol=1e-5, rtol=0)


async def test_sessions_rows_and_bytes_are_counted(trunk: RunningTrunk) -> None:
    async with trunk.client.stream(opening(trunk)) as stream:
        await stream.step(Frame(0, rows(6)))
        assert trunk.value("num_sessions_open") == 1
        await stream.close()
        sent, received = stream.bytes_sent, stream.bytes_received
    assert trunk.value("sessions_total") == 1
    assert trunk.value("rows_total") == 6
    assert trunk.value("frame_compute_time_seconds_count") == 1
    assert trunk.value("frame_queue_time_seconds_count") == 1
    assert trunk.value("frame_latency_seconds_count") == 1
    assert trunk.value("wire_bytes_total", direction="received", codec="none") == sent > 6 * D * 4
    assert trunk.value("wire_bytes_total", direction="sent", codec="none") == received > 6 * D * 4


async def test_health_and_info_answer_while_the_device_is_busy(trunk: RunningTrunk) -> None:
    gate = threading.Event()
    busy = trunk.thread.run(gate.wait)
    try:
        async with trunk.client.stream(opening(trunk)) as stream:
            waiting = asyncio.create_task(stream.step(Frame(0, rows(2))))
            assert await trunk.client.health()
            assert (await trunk.client.service_info()).fingerprint == trunk.fingerprint
            assert not waiting.done()
            gate.set()
            assert (await waiting).frame.rows is not None
    finally:
        gate.set()
    await busy


@pytest.mark.parametrize(
    "kind", [split.BadRows, split.SessionClosed, split.EngineFailed, split.NoRoom, split.SplitError]
)
def test_every_error_of_the_engine_has_one_of_the_wire_and_so_have_its_subclasses(
    kind: type[split.SplitError],
) -> None:
    class Newer(kind):  # type: ignore[misc, valid-type]
        pass

    named = {split.BadRows: InvalidTensor, split.SessionClosed: SessionClosed, split.EngineFailed: Draining}
    expected = named.get(kind, RemoteFailure)
    for error in (kind("the words"), Newer("the words")):
        assert type(on_the_wire(error)) is expected
        assert str(on_the_wire(error)) == "the words"


def test_a_full_engine_says_on_the_wire_when_to_come_back() -> None:
    class Fuller(split.EngineFull):
        pass

    error = on_the_wire(Fuller("full", 2.5))
    assert (type(error), error.retry_after) == (Overloaded, 2.5)


async def test_a_kept_session_takes_no_more_frames(trunk: RunningTrunk) -> None:
    session = await trunk.server._service._sessions.host.open(opening(trunk))  # type: ignore[union-attr]
    await session.step(Frame(0, rows(2)))
    session.finish(())
    for _ in range(2):
        with pytest.raises(SessionClosed):
            await session.step(Frame(2, rows(1)))
    with pytest.raises(SessionClosed):
        session.finish(())
    await session.close()


async def test_a_look_for_idle_sessions_that_fails_is_logged_and_not_the_last(
    trunk: RunningTrunk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looks = asyncio.Queue[float]()

    def broken(idle_seconds: float) -> None:
        looks.put_nowait(idle_seconds)
        raise KeyError("a session that is gone")

    monkeypatch.setattr(trunk.trunk.engine, "expire", broken)
    host = TrunkServicer(trunk.trunk.engine, trunk.trunk.info, trunk.trunk.metrics)
    expiring = asyncio.create_task(host.expire(0.001))
    for _ in range(3):
        assert await asyncio.wait_for(looks.get(), 10) == 0.001
    expiring.cancel()
    await asyncio.wait({expiring})
    assert "idle sessions could not be expired" in capsys.readouterr().out


# --- draining --------------------------------------------------------------------------------------------------------


async def test_a_trunk_that_drains_refuses_new_sessions_and_serves_open_ones(trunk: RunningTrunk) -> None:
    hidden_TD = rows(3)
    async with trunk.client.stream(opening(trunk)) as stream:
        await stream.step(Frame(0, hidden_TD[:1]))
        trunk.trunk.servicer.drain()
        with pytest.raises(Draining, match="open the session on another one"):
            async with trunk.client.stream(opening(trunk)) as late:
                await late.step(Frame(0, hidden_TD))
        reply = await stream.step(Frame(1, hidden_TD[1:]))
        assert reply.frame.rows is not None
    await trunk.trunk.servicer.drained()
    assert trunk.trunk.servicer.n_sessions == 0


async def test_sessions_are_handed_over_between_two_steps(trunk: RunningTrunk) -> None:
    stream = trunk.client.stream(opening(trunk))
    await stream.step(Frame(0, rows(1)))
    async with busy(trunk):
        running = asyncio.create_task(stream.step(Frame(1, rows(1))))
        await until(lambda: trunk.trunk.engine.n_running == 1 and bool(trunk.trunk.engine._sessions.requests))
        trunk.trunk.servicer.hand_over()
    # the step that ran is answered
    assert (await running).frame.rows is not None
    with pytest.raises(Draining, match="go on with another one"):
        await stream.step(Frame(2, rows(1)))
    assert stream.ended
    await trunk.trunk.servicer.drained()


async def test_sessions_of_a_drain_are_counted_by_their_end(trunk: RunningTrunk) -> None:
    streams = [trunk.client.stream(opening(trunk)) for _ in range(4)]
    for stream in streams:
        await stream.step(Frame(0, rows(1)))
    before_the_drain, ends, is_told, is_cut_off = streams
    servicer = trunk.trunk.servicer
    await before_the_drain.close()
    assert trunk.value("draining") == 0
    servicer.drain()
    assert trunk.value("draining") == 1
    await ends.close()
    servicer.hand_over()
    with pytest.raises(Draining):
        await is_told.step(Frame(1, rows(1)))
    servicer.cut_off()
    is_cut_off.cancel()
    await servicer.drained()
    counted = {outcome: trunk.value("drained_sessions_total", outcome=outcome) for outcome in DRAINED}
    assert counted == {"ended": 1, "handed_over": 1, "cut_off": 1}


async def test_a_worker_that_stops_counts_the_sessions_that_it_hands_over_and_those_that_it_cuts_off(
    trunk: RunningTrunk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splitlearn_trunk.app, "HAND_OVER_SECONDS", 0.05)
    monkeypatch.setattr(splitlearn_trunk.app, "LAST_STATUS_SECONDS", 0.05)
    stream = trunk.client.stream(opening(trunk))
    await stream.step(Frame(0, rows(1)))
    await trunk.trunk.stop(0.0)
    assert trunk.value("drained_sessions_total", outcome="cut_off") == 1
    await stream.wait_ended()


async def test_stopping_waits_for_sessions_and_reports_not_serving_meanwhile(trunk: RunningTrunk) -> None:
    stream = trunk.client.stream(opening(trunk))
    await stream.step(Frame(0, rows(1)))
    stopping = asyncio.create_task(trunk.trunk.stop(60.0))
    await until(lambda: trunk.trunk.servicer._is_draining)
    assert not await trunk.client.health()
    assert not stopping.done()
    await stream.close()
    await stopping


async def test_the_load_is_reported_in_rows_and_sessions(trunk: RunningTrunk) -> None:
    idle = (await trunk.client.service_info()).load
    assert idle is not None
    assert (idle.running_sessions, idle.waiting_sessions) == (0, 0)
    assert idle.free_rows == idle.total_rows > 0
    async with trunk.client.stream(opening(trunk)) as stream:
        await stream.step(Frame(0, rows(5)))
        load = (await trunk.client.service_info()).load
        assert load is not None
        assert load.running_sessions == 1
        assert 0 < load.total_rows - load.free_rows <= 512


async def test_cached_prefixes_make_way_and_are_no_load(trunk: RunningTrunk) -> None:
    async with trunk.client.stream(opening(trunk)) as stream:
        await stream.step(Frame(0, rows(64)))
        await stream.finish([b"one", b"two"])
    await until(lambda: trunk.trunk.engine.n_cached_prefixes == 1)
    assert trunk.trunk.engine.pages.used > 0
    load = (await trunk.client.service_info()).load
    assert load is not None
    assert load.free_rows == load.total_rows


# --- which session is older ------------------------------------------------------------------------------------------


async def test_sessions_are_as_old_as_their_clients_say_but_not_older_than_can_be(trunk: RunningTrunk) -> None:
    now = time.time()
    numbers = []
    for opened_at in (now - 5, now - 10, 1.0, now + 1000):
        said = replace(opening(trunk), opened_at=opened_at)
        session = await trunk.trunk.servicer.open(said)
        numbers.append(session._session.number / 1e6)
        await session.close()
    younger, older, ancient, future = numbers
    assert older < younger
    assert ancient >= now - 61
    assert future <= time.time() + 0.001


# --- whose session it is ---------------------------------------------------------------------------------------------


async def test_the_engine_learns_whose_a_session_is(trunk: RunningTrunk) -> None:
    for tenant in ("", "an-opaque-id"):
        session = await trunk.trunk.servicer.open(replace(opening(trunk), identity="token web", tenant=tenant))
        assert session._session.owner == ("token web", "", tenant)
        await session.close()
