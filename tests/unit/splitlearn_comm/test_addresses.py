import errno
import ipaddress
import re
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitlearn_comm.addresses import bare_host, check_host, join_address, listening_trouble, split_address
from splitlearn_comm.errors import InvalidAddress

HOSTS = st.one_of(
    st.sampled_from(["localhost", "trunk", "trunk-1.example.org", "a_b", "_dns.example", "trunk.", "9to5.example"]),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
)


@given(HOSTS, st.integers(1, 65535))
def test_what_is_joined_is_split_into_the_same(host: str, port: int) -> None:
    assert split_address(join_address(host, port)) == (host, port)


@given(st.ip_addresses(v=6), st.integers(0, 65535))
def test_only_ipv6_hosts_get_brackets_and_only_once(host: ipaddress.IPv6Address, port: int) -> None:
    assert join_address(str(host), port) == join_address(f"[{host}]", port) == f"[{host}]:{port}"
    assert join_address("127.0.0.1", port) == f"127.0.0.1:{port}"


def test_a_servers_host_may_have_brackets_and_loses_them() -> None:
    assert [bare_host(host) for host in ("::1", "[::1]", "127.0.0.1", "")] == ["::1", "::1", "127.0.0.1", ""]


@pytest.mark.parametrize("host", ["[::1", "::1]", "[", "]", "[127.0.0.1"])
def test_half_of_a_hosts_brackets_is_refused(host: str) -> None:
    with pytest.raises(
        InvalidAddress, match=rf"^'{re.escape(host)}' has one bracket of two; write .*as ::1 or \[::1\]"
    ):
        bare_host(host)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("trunk", "'trunk' has no port; write HOST:PORT, for example trunk:50051"),
        ("trunk:", "'trunk:' has no port"),
        ("[::1]", r"'\[::1\]' has no port; write HOST:PORT, for example \[::1\]:50051"),
        ("", "has no port"),
        (":50051", "':50051' has no host"),
        ("trunk:70000", "the port of 'trunk:70000' is not in the range 1 to 65535"),
        ("trunk:65536", "not in the range 1 to 65535"),
        ("trunk:0", "not in the range 1 to 65535"),
        ("trunk:" + "9" * 10_000, "not in the range 1 to 65535"),
        ("trunk:http", "is not a number"),
        ("trunk:-1", "is not a number"),
        ("trunk:+1", "is not a number"),
        ("trunk: 1", "is not a number"),
        ("trunk:1_0", "is not a number"),
        ("trunk:５", "is not a number"),
        ("::1", "an IPv6 address goes into brackets"),
        ("::1:50051", "an IPv6 address goes into brackets"),
        ("[::1:50051", "brackets go around an IPv6 address"),
        ("[trunk]:50051", "brackets go around an IPv6 address"),
        ("[::1]50051", "brackets go around an IPv6 address"),
        ("[:::1]:50051", "is no IPv6 address"),
        ("1.2.3:50051", "'1.2.3' is not an IPv4 address"),
        ("256.0.0.1:50051", "is not an IPv4 address"),
        ("two words:50051", "is not a host name"),
        ("line\nbreak:50051", r"'line\\nbreak' is not a host name"),
        ("trunk/v1:50051", "is not a host name"),
    ],
)
def test_what_is_no_address_is_refused_with_what_is_wrong(text: str, words: str) -> None:
    with pytest.raises(InvalidAddress, match=words):
        split_address(text)


@given(st.text(max_size=300))
def test_any_text_is_an_address_or_refused_on_one_short_line(text: str) -> None:
    refusal = ""
    try:
        host, port = split_address(text)
    except InvalidAddress as error:
        refusal = str(error)
    else:
        assert host
        assert 1 <= port <= 65535
    assert refusal.isprintable()
    assert len(refusal) < 400


def test_an_invalid_address_is_a_value_error_so_that_settings_can_report_it() -> None:
    with pytest.raises(ValueError, match="not a host name"):
        check_host("a b")


@pytest.mark.parametrize(
    ("host", "error", "words"),
    [
        ("::1", OSError(errno.EADDRINUSE, "x"), r"\[::1\]:80 is taken by another process"),
        ("10.0.0.9", OSError(errno.EADDRNOTAVAIL, "x"), r"^10.0.0.9 is not an address of this machine; "),
        ("::1", OSError(errno.EADDRNOTAVAIL, "x"), "not an address of this machine or this machine has no IPv6"),
        ("::", OSError(errno.EAFNOSUPPORT, "x"), "this machine offers no IPv6"),
        ("127.0.0.1", OSError(errno.EACCES, "x"), "may not listen on 127.0.0.1:80; ports below 1024"),
        ("trunk", socket.gaierror(socket.EAI_NONAME, "x"), "'trunk' does not resolve"),
        ("127.0.0.1", OSError(errno.EMFILE, "x"), "cannot listen on 127.0.0.1:80: Too many open files"),
    ],
)
def test_why_nobody_can_listen_blames_what_is_at_fault(host: str, error: OSError, words: str) -> None:
    assert re.search(words, listening_trouble(host, 80, error))
