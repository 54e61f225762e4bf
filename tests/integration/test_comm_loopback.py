"""A session from open to close over a real connection, alone and among others."""

import asyncio
import random
from contextlib import suppress

import pytest
import torch

from splitlearn_comm import (
    AsyncGRPCComputeClient,
    AsyncGRPCComputeServer,
    ClientStream,
    Frame,
    PositionNotReached,
    SessionOpening,
    Unreachable,
)
from splitlearn_comm.testing import EchoSessionHost, loopback

WIDTH = 16


def rows(seed: int, count: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed)).to(dtype)


async def stepped(stream: ClientStream, frame: Frame) -> torch.Tensor:
    reply = await stream.step(frame)
    assert reply.frame.rows is not None
    return reply.frame.rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
async def test_prefill_in_chunks_then_steps_a_rollback_and_a_resend(dtype: torch.dtype) -> None:
    host = EchoSessionHost()
    prompt_TD, token_TD, draft_TD = rows(1, 12, dtype), rows(2, 1, dtype), rows(3, 3, dtype)
    async with loopback(session_host=host) as (_, client):
        async with client.stream(SessionOpening("one", "echo", 32)) as stream:
            for start in range(0, 12, 4):
                await stream.send(Frame(start, prompt_TD[start : start + 4]))
            for start in range(0, 12, 4):
                reply = await stream.receive()
                assert torch.equal(reply.frame.rows, prompt_TD[start : start + 4] * 2)  # type: ignore[arg-type]

            await stepped(stream, Frame(12, draft_TD))
            await stream.step(Frame(13, None))
            for _ in range(2):
                assert torch.equal(await stepped(stream, Frame(13, token_TD)), token_TD * 2)

        held_TD = host.sessions[0].rows_TD
        assert held_TD is not None
        assert held_TD.dtype is dtype
        assert torch.equal(held_TD, torch.cat((prompt_TD, draft_TD[:1], token_TD)))


async def test_interleaved_sessions_do_not_mix() -> None:
    host = EchoSessionHost()
    count, steps = 4, 12
    async with loopback(session_host=host) as (_, client):

        async def run(index: int) -> None:
            async with client.stream(SessionOpening(str(index), "echo", 64)) as stream:
                for position in range(steps):
                    row_TD = rows(100 * index + position, 1)
                    assert torch.equal(await stepped(stream, Frame(position, row_TD)), row_TD * 2)
                    if position == index:
                        with pytest.raises(PositionNotReached):
                            await stream.step(Frame(50, row_TD))

        async with asyncio.TaskGroup() as sessions:
            for index in range(count):
                sessions.create_task(run(index))

    for session in host.sessions:
        index = int(session.opening.session_id)
        expected_TD = torch.cat([rows(100 * index + position, 1) for position in range(steps)])
        assert torch.equal(session.rows_TD, expected_TD)  # type: ignore[arg-type]
        assert session.times_closed == 1


async def test_a_client_finds_a_server_that_comes_back_on_the_same_port() -> None:
    host = EchoSessionHost()
    first = AsyncGRPCComputeServer(session_host=host)
    port = await first.start()
    async with AsyncGRPCComputeClient(f"127.0.0.1:{port}") as client:
        await client.connect()
        await first.stop()
        with pytest.raises(Unreachable, match=f"no answer from 127.0.0.1:{port}"):
            await client.connect()

        async with AsyncGRPCComputeServer(session_host=host, port=port), asyncio.timeout(5):
            # Refused at once, and not held up, for as long as the client waits before it tries to connect again.
            while host.sessions == []:
                with suppress(Unreachable):
                    async with client.stream(SessionOpening("one", "echo", 8)) as stream:
                        assert torch.equal(await stepped(stream, Frame(0, rows(1, 1))), rows(1, 1) * 2)


async def test_whenever_clients_give_up_every_session_is_closed_once() -> None:
    host = EchoSessionHost()
    chance = random.Random(0)

    async def run(client: AsyncGRPCComputeClient, index: int) -> None:
        stream = client.stream(SessionOpening(str(index), "echo", 64))
        for position in range(chance.randrange(4)):
            await stream.send(Frame(position, rows(index, 1)))
        match index % 3:
            case 0:
                stream.cancel()
            case 1:
                await stream.close()
            # The third kind just leaves, and is cancelled when the client closes.

    async with loopback(session_host=host) as (_, client), asyncio.TaskGroup() as clients:
        for index in range(30):
            clients.create_task(run(client, index))

    assert host.sessions
    assert {session.times_closed for session in host.sessions} == {1}
