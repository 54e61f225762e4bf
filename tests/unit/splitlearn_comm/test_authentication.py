"""A server that asks for tokens: what calls without a valid one get, and what they do not reach."""

from collections import Counter
from pathlib import Path

import grpc
import grpc.aio
import pytest
import torch
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from structlog.testing import capture_logs

from splitlearn_comm import (
    Access,
    AsyncGRPCComputeClient,
    AsyncGRPCComputeServer,
    ClientStream,
    Frame,
    SessionOpening,
    wire,
)
from splitlearn_comm.core import NoObserver
from splitlearn_comm.errors import Unauthenticated
from splitlearn_comm.testing import EchoSessionHost
from splitlearn_comm.token_files import Tokens
from support.tls import replace

ALICE, BOB = "the-token-of-alice", "the-token-of-bob-00"
# a request of 1 MiB, which would be decoded
ROWS_TD = torch.ones(1024, 256)


class Counting(NoObserver):
    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()

    def refused(self, kind: str) -> None:
        self.seen[kind] += 1

    def bytes_in(self, count: int, codec: str) -> None:
        self.seen["bytes"] += count

    def session_opened(self) -> None:
        self.seen["sessions"] += 1


class Asking:
    """A server that asks for the tokens of a file."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "tokens"
        self.file.write_text(f"alice {ALICE}\nbob {BOB}\n")
        self.observer = Counting()
        self.host = EchoSessionHost()
        self.server = AsyncGRPCComputeServer(
            session_host=self.host, observer=self.observer, tokens=Tokens(file=self.file)
        )

    def client(self, token: str | None) -> AsyncGRPCComputeClient:
        access = None if token is None else Access(token=lambda: token)
        return AsyncGRPCComputeClient(f"127.0.0.1:{self.server.port}", access=access)


async def ahead_of_the_answers(stream: ClientStream) -> None:
    for position in range(0, 8 * len(ROWS_TD), len(ROWS_TD)):
        await stream.send(Frame(position, ROWS_TD))
    await stream.receive()


@pytest.fixture
def asking(tmp_path: Path) -> Asking:
    return Asking(tmp_path)


@pytest.mark.parametrize("token", [None, "the-token-of-nobody", ALICE[:-1]])
async def test_a_stranger_is_refused_before_anything_is_read(asking: Asking, token: str | None) -> None:
    async with asking.server, asking.client(token) as stranger:
        for call in (stranger.service_info, stranger.health):
            with pytest.raises(Unauthenticated, match="asks for a token"):
                await call()
        with pytest.raises(Unauthenticated):
            await anext(stranger.watch_health())
        stream = stranger.stream(SessionOpening("one", "echo", 2048))
        with pytest.raises(Unauthenticated):
            await ahead_of_the_answers(stream)
        stream.cancel()
    assert asking.observer.seen == {"Unauthenticated": 4}
    assert asking.host.sessions == []


async def test_reflection_needs_the_token_too(asking: Asking) -> None:
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    async with asking.server, grpc.aio.insecure_channel(f"127.0.0.1:{asking.server.port}") as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await anext(aiter(stub.ServerReflectionInfo(iter([request]))))
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        headers = (("authorization", f"Bearer {ALICE}"),)
        reply = await anext(aiter(stub.ServerReflectionInfo(iter([request]), metadata=headers)))
        assert wire.SERVICE in {each.name for each in reply.list_services_response.service}


async def test_two_headers_are_as_good_as_none(asking: Asking) -> None:
    headers = (("authorization", f"Bearer {ALICE}"), ("authorization", f"Bearer {BOB}"))
    async with asking.server, grpc.aio.insecure_channel(f"127.0.0.1:{asking.server.port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await channel.unary_unary(f"/{wire.SERVICE}/GetServiceInfo")(b"", metadata=headers)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_session_knows_whose_it_is(asking: Asking) -> None:
    async with asking.server, asking.client(ALICE) as alice, asking.client(BOB) as bob:
        for client in (alice, bob, alice):
            async with client.stream(SessionOpening("one", "echo", 8, client="somebody-else")) as stream:
                await stream.step(Frame(0, ROWS_TD[:2]))
    assert [session.opening.client for session in asking.host.sessions] == ["alice", "bob", "alice"]


async def test_a_server_that_asks_for_no_token_takes_calls_with_one() -> None:
    host = EchoSessionHost()
    async with (
        AsyncGRPCComputeServer(session_host=host) as server,
        AsyncGRPCComputeClient(f"127.0.0.1:{server.port}", access=Access(token=lambda: ALICE)) as client,
        client.stream(SessionOpening("one", "echo", 8)) as stream,
    ):
        await stream.step(Frame(0, ROWS_TD[:2]))
    assert host.sessions[0].opening.client == ""


async def test_a_token_that_is_taken_out_of_the_file_opens_nothing_more_and_open_sessions_go_on(
    asking: Asking,
) -> None:
    async with asking.server, asking.client(BOB) as bob, asking.client("the-token-of-carol") as carol:
        async with bob.stream(SessionOpening("one", "echo", 8)) as stream:
            await stream.step(Frame(0, ROWS_TD[:1]))
            replace(asking.file, b"carol the-token-of-carol\n")
            await stream.step(Frame(1, ROWS_TD[:1]))
        with pytest.raises(Unauthenticated):
            await bob.health()
        assert await carol.health()


async def test_refused_calls_are_logged_once_in_a_while_and_without_their_tokens(asking: Asking) -> None:
    with capture_logs() as lines:
        async with asking.server, asking.client("the-token-of-nobody") as stranger:
            for _ in range(5):
                with pytest.raises(Unauthenticated):
                    await stranger.health()
    assert [line["event"] for line in lines] == ["calls without a valid token were refused"]
    assert "the-token" not in str(lines)
