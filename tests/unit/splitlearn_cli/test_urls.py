import re
import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest

from splitlearn_cli.urls import base_url, connecting, is_loopback
from splitlearn_comm.certificates import make_authority


@pytest.mark.parametrize("end", ["", "/", "/v1", "/v1/", "//v1//", " ", "/v1 "])
@pytest.mark.parametrize("start", ["http://a:1", "https://a", "http://[::1]:8000", "https://a.example/llm"])
def test_an_address_is_the_same_with_and_without_v1(start: str, end: str) -> None:
    assert base_url(start + end) == start


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected http://HOST:PORT"),
        ("localhost", "expected http://HOST:PORT"),
        ("localhost:8000", "expected http://HOST:PORT"),
        ("127.0.0.1:8000/v1", "expected http://HOST:PORT"),
        ("ftp://a", "expected http://HOST:PORT"),
        ("http://", "expected http://HOST:PORT"),
        ("http://:8000", "expected http://HOST:PORT"),
        ("http://a:0", "expected http://HOST:PORT"),
        ("http://a:65536", "out of range"),
        ("http://a:80b", "'80b'"),
        ("http://[::1", "IPv6"),
        ("http://a b:80", "expected http://HOST:PORT"),
        ("http://a?x=1", "without a query"),
        ("http://a\x00", "expected http://HOST:PORT"),
    ],
)
def test_what_is_no_address_is_refused_with_what_would_be_one(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        base_url(text)


@pytest.mark.parametrize(
    ("host", "expected"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("10.0.0.1", False), ("a.b", False)]
)
def test_loopback_is_known_by_number_and_by_name(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_proxies_are_asked_for_other_machines_alone_and_authorities_hold_for_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ca = make_authority(datetime.now(UTC), 10)
    (tmp_path / "ca.crt").write_bytes(ca.certificate)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.crt"))
    assert connecting("https://llm.example.com") == {"trust_env": True, "verify": True}
    for url in ("http://127.0.0.1:8000", "https://localhost:8000", "https://[::1]:8000"):
        options = connecting(url)
        assert not options["trust_env"]
        assert isinstance(options["verify"], ssl.SSLContext)
        assert len(options["verify"].get_ca_certs()) == 1
