import pytest

from splitlearn_client.serving.hosts import AllowedHosts

LOOPBACK = AllowedHosts.of(None, "127.0.0.1", only_loopback=True)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:8000",
        "127.0.0.1",
        "[::1]:8000",
        "[fe80::1%25eth0]",
        "localhost",
        "LocalHost:80",
        "a.localhost",
        "localhost.",
        "192.168.0.7:8000",
    ],
)
def test_on_loopback_addresses_and_localhost_pass(host: str) -> None:
    assert LOOPBACK.allow(host)


@pytest.mark.parametrize(
    "host",
    [
        "rebound.example",
        "rebound.example:8000",
        "127.0.0.1.rebound.example",
        "localhost.rebound.example",
        "",
        "[::1",
        "u@127.0.0.1",
        "127.0.0.1/rebound.example",
        "a b",
        "127.0.0.1\n",
        "x" * 10000,
        "2130706433",
    ],
)
def test_on_loopback_every_other_name_is_refused(host: str) -> None:
    assert not LOOPBACK.allow(host)


def test_the_name_to_listen_on_passes() -> None:
    assert AllowedHosts.of(None, "Desk", only_loopback=True).allow("desk:8000")


def test_on_a_network_any_name_is_allowed_by_default() -> None:
    assert AllowedHosts.of(None, "0.0.0.0", only_loopback=False).allow("client:8000")


def test_named_hosts_are_the_only_ones_wherever_it_listens() -> None:
    allowed = AllowedHosts.of(["llm.example.com", "*.lan"], "0.0.0.0", only_loopback=False)
    assert all(map(allowed.allow, ["LLM.example.com:443", "a.lan", "a.b.lan", "10.0.0.7", "localhost"]))
    assert not any(map(allowed.allow, ["example.com", "x.llm.example.com", "lan", "alan", "client"]))


def test_a_star_takes_any() -> None:
    assert AllowedHosts.of("*", "127.0.0.1", only_loopback=True).allow("rebound.example")
