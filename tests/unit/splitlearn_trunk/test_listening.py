import socket

import pytest

from splitlearn_comm import PortUnavailable
from splitlearn_trunk.listening import address_of, bound

NO_IPV6 = not socket.has_ipv6


def _ipv6_works() -> bool:
    try:
        bound("::1", 0, "--port").close()
    except PortUnavailable:
        return False
    return True


def test_a_port_is_held_against_everybody_before_anybody_listens() -> None:
    with bound("127.0.0.1", 0, "--port") as held:
        _, port = address_of(held)
        with pytest.raises(PortUnavailable, match=rf"^--port: 127\.0\.0\.1:{port} is taken .*choose another port"):
            bound("127.0.0.1", port, "--port")
        with pytest.raises(PortUnavailable, match=r"second trunk on this machine: --port 0 --metrics-port 0"):
            bound("0.0.0.0", port, "--port")
    bound("127.0.0.1", port, "--port").close()


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("192.0.2.1", r"^--host: 192\.0\.2\.1 is not an address of this machine"),
        ("nobody.invalid", r"^--host: the host 'nobody\.invalid' does not resolve"),
        ("127.0.0.1:50051", r"^--host: the host '127\.0\.0\.1:50051' does not resolve"),
        ("a..b", r"^--host: .*a\.\.b"),
        ("2001:db8::1", r"^--host: (2001:db8::1|.*offers no IPv6)"),
        ("[::1", r"^--host: '\[::1' has one bracket of two"),
    ],
)
def test_what_is_wrong_with_the_host_is_said_of_the_host(host: str, said: str) -> None:
    with pytest.raises(PortUnavailable, match=said):
        bound(host, 50051, "--port")


@pytest.mark.skipif(not _ipv6_works(), reason="this machine has no IPv6")
@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_ipv6_is_listened_on_with_and_without_brackets(host: str) -> None:
    with bound(host, 0, "--port") as held:
        address, port = address_of(held)
        assert (str(address), port > 0) == ("::1", True)
        with pytest.raises(PortUnavailable, match=rf"\[::1\]:{port} is taken"):
            bound(host, port, "--port")


@pytest.mark.skipif(not _ipv6_works(), reason="this machine has no IPv6")
def test_the_wildcard_of_ipv6_takes_ipv4_too() -> None:
    with bound("::", 0, "--port") as held:
        held.listen()
        address, port = address_of(held)
        assert address.is_unspecified
        socket.create_connection(("127.0.0.1", port)).close()
