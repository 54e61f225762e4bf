import asyncio
import socket
from typing import Any

import pytest

from splitlearn_comm import InvalidAddress
from splitlearn_comm.replicas.discovery import MOST_ADDRESSES, Discovery


class Names:
    """Stands in for the name service of the event loop."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.known: dict[str, list[str]] = {}
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", self._getaddrinfo)

    async def _getaddrinfo(self, host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        if host not in self.known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in self.known[host]]


async def test_a_list_of_addresses_is_taken_as_it_is_each_once() -> None:
    discovery = Discovery("10.0.0.1:1, 10.0.0.2:2,[::1]:3,10.0.0.1:1")
    assert await discovery.addresses() == {each: each for each in ("10.0.0.1:1", "10.0.0.2:2", "[::1]:3")}
    assert discovery.is_fixed


async def test_a_name_stands_for_all_its_addresses_and_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(monkeypatch)
    names.known["trunk"] = ["10.0.0.1", "10.0.0.2", "fd00::1"]
    discovery = Discovery("trunk:50051,10.9.9.9:7")
    assert not discovery.is_fixed
    assert await discovery.addresses() == {
        "10.9.9.9:7": "10.9.9.9:7",
        "10.0.0.1:50051": "trunk:50051",
        "10.0.0.2:50051": "trunk:50051",
        "[fd00::1]:50051": "trunk:50051",
    }
    names.known["trunk"] = ["10.0.0.3"]
    assert set(await discovery.addresses()) == {"10.9.9.9:7", "10.0.0.3:50051"}


async def test_a_name_service_that_fails_takes_no_replica_away(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(monkeypatch)
    names.known["trunk"] = ["10.0.0.1"]
    discovery = Discovery("trunk:50051")
    assert set(await discovery.addresses()) == {"10.0.0.1:50051"}
    del names.known["trunk"]
    assert set(await discovery.addresses()) == {"10.0.0.1:50051"}


async def test_a_name_that_never_resolved_is_named_with_what_to_check(monkeypatch: pytest.MonkeyPatch) -> None:
    Names(monkeypatch)
    with pytest.raises(InvalidAddress, match=r"trunk:50051 does not resolve .* check --trunk"):
        await Discovery("trunk:50051").addresses()


@pytest.mark.parametrize("host", ["a..b", f"{'a' * 64}.example"])
async def test_a_name_that_no_resolver_takes_does_not_resolve(host: str) -> None:
    with pytest.raises(InvalidAddress, match="does not resolve"):
        await Discovery(f"{host}:50051").addresses()


async def test_other_names_that_resolve_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(monkeypatch)
    names.known["here"] = ["10.0.0.1"]
    discovery = Discovery("here:1,nowhere:2")
    assert set(await discovery.addresses()) == {"10.0.0.1:1"}
    (trouble,) = discovery.troubles
    assert trouble.startswith("nowhere:2 does not resolve")
    names.known["nowhere"] = ["10.0.0.2"]
    await discovery.addresses()
    assert discovery.troubles == ()


async def test_localhost_is_a_name_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(monkeypatch)
    names.known["localhost"] = ["127.0.0.1", "::1"]
    discovery = Discovery("localhost:50051")
    assert set(await discovery.addresses()) == {"127.0.0.1:50051", "[::1]:50051"}
    assert not discovery.is_fixed


async def test_of_a_name_with_countless_addresses_the_same_few_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(monkeypatch)
    everybody = [f"10.0.{i // 250}.{i % 250 + 1}" for i in range(1000)]
    names.known["trunk"] = everybody
    discovery = Discovery("trunk:1")
    found = await discovery.addresses()
    assert len(found) == MOST_ADDRESSES
    assert discovery.troubles == (f"trunk:1 has 1000 addresses; only {MOST_ADDRESSES} of them are used",)
    names.known["trunk"] = everybody[::-1]
    assert await discovery.addresses() == found


async def test_a_target_of_grpc_is_one_replica() -> None:
    assert await Discovery("unix:/run/trunk.sock").addresses() == {"unix:/run/trunk.sock": "unix:/run/trunk.sock"}


@pytest.mark.parametrize("text", ["", ",", "trunk", "trunk:0", "trunk:1,other", "::1:50051", "http://trunk:1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidAddress):
        Discovery(text)
