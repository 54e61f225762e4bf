from typing import Any

import httpx
import pytest

from splitlearn_cli import waiting
from splitlearn_cli.waiting import NotReady, not_ready_because, wait_for_client, wait_for_trunk
from splitlearn_comm import AsyncGRPCComputeClient, AsyncGRPCComputeServer, ServiceInfo, Unreachable
from support.running_split import free_port


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Takes the place of sleeping; how long was to be slept."""
    slept: list[float] = []
    monkeypatch.setattr(waiting.time, "sleep", slept.append)
    return slept


def test_a_service_that_is_not_ready_is_polled_until_it_is(
    chat_service: Any, naps: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    chat_service.busy = 3
    with httpx.Client(trust_env=False) as session:
        wait_for_client(session, chat_service.url, 60.0)
        assert not_ready_because(session, chat_service.url) is None

    assert len(naps) == 3
    told = capsys.readouterr().err
    assert told == f"{chat_service.url} is not ready (no trunk answers); waiting up to 60 s\n"


def test_waiting_ends_with_its_time_and_leaves_the_error_to_the_request(chat_service: Any) -> None:
    chat_service.busy = 1_000_000
    with httpx.Client(trust_env=False) as session:
        wait_for_client(session, chat_service.url, 0.01)


def test_a_service_that_will_not_be_ready_by_itself_is_not_waited_for(chat_service: Any, naps: list[float]) -> None:
    chat_service.busy, chat_service.passes = 1_000_000, False
    with httpx.Client(trust_env=False) as session:
        wait_for_client(session, chat_service.url, 3600.0)
    assert not naps


def test_with_a_wait_of_0_nothing_is_polled(chat_service: Any) -> None:
    with httpx.Client(trust_env=False) as session:
        wait_for_client(session, chat_service.url, 0.0)
    assert chat_service.busy == 0


def test_an_unreachable_service_is_waited_for() -> None:
    with httpx.Client(trust_env=False) as session:
        not_ready = not_ready_because(session, f"http://127.0.0.1:{free_port()}")
    assert not_ready is not None
    assert "refused" in not_ready.reason
    assert not_ready.may_recover


@pytest.mark.parametrize(("told", "passes"), [(None, True), (True, True), (False, False)])
def test_a_service_says_whether_it_may_recover(chat_service: Any, told: bool | None, passes: bool) -> None:
    chat_service.busy, chat_service.passes = 1, told
    with httpx.Client(trust_env=False) as session:
        assert not_ready_because(session, chat_service.url) == NotReady("no trunk answers", passes)


def test_an_address_that_is_none_is_not_waited_for() -> None:
    with httpx.Client(trust_env=False) as session, pytest.raises(httpx.UnsupportedProtocol):
        wait_for_client(session, "localhost:8000", 60.0)


class Host:
    def info(self) -> ServiceInfo:
        return ServiceInfo("trunk", "1", "cpu", "tiny", {})

    async def open(self, opening: object) -> Any:
        raise NotImplementedError


async def test_a_trunk_that_comes_later_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = AsyncGRPCComputeServer(port=free_port(), session_host=Host())
    sleep = waiting.asyncio.sleep

    async def start_meanwhile(seconds: float) -> None:
        monkeypatch.setattr(waiting.asyncio, "sleep", sleep)
        await server.start()

    monkeypatch.setattr(waiting.asyncio, "sleep", start_meanwhile)
    try:
        async with AsyncGRPCComputeClient(f"127.0.0.1:{server.port}", timeout=10.0) as client:
            info = await wait_for_trunk(client, 60.0)
    finally:
        await server.stop()
    assert info.fingerprint == "tiny"
    assert capsys.readouterr().err.count("waiting up to 60 s") == 1


async def test_a_trunk_that_never_comes_is_unreachable() -> None:
    async with AsyncGRPCComputeClient(f"127.0.0.1:{free_port()}", timeout=10.0) as client:
        with pytest.raises(Unreachable):
            await wait_for_trunk(client, 0.01)


@pytest.mark.parametrize("answer", [404, httpx.RemoteProtocolError("no HTTP"), httpx.ReadError("reset")])
def test_servers_that_are_not_ours_are_not_waited_for(answer: int | Exception) -> None:
    def ready(_request: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer)

    with httpx.Client(transport=httpx.MockTransport(ready)) as session:
        assert not_ready_because(session, "http://elsewhere") is None
