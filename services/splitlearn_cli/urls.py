"""Parses addresses of OpenAI endpoints."""

import ssl
from ipaddress import ip_address
from typing import TypedDict
from urllib.parse import urlsplit


def base_url(text: str) -> str:
    """The address without a slash at the end, and without the /v1 that OpenAI's clients need.

    Raises:
        ValueError: it is no valid address; the message says what is expected.
    """
    # imported here because httpx is in an extra, and listing flags must work without it
    import httpx

    text = text.strip()
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0 or any(map(str.isspace, text)):
        raise ValueError("expected http://HOST:PORT or https://HOST")
    if parts.query or parts.fragment:
        raise ValueError("expected http://HOST:PORT or https://HOST, without a query or a fragment")
    try:
        httpx.URL(text)
    except httpx.InvalidURL as error:
        raise ValueError(f"expected http://HOST:PORT or https://HOST ({error})") from error
    return text.rstrip("/").removesuffix("/v1").rstrip("/")


def connecting(url: str) -> "Connecting":
    """How an HTTP client reaches an address, as options of it: with the proxies of the environment, unless it is on
    this machine, which they cannot reach; certificates are checked with the authorities of the environment
    (SSL_CERT_FILE) everywhere."""
    import httpx

    if not is_loopback(httpx.URL(url).host):
        return {"trust_env": True, "verify": True}
    # trust_env would be about proxies and authorities alike
    return {"trust_env": False, "verify": httpx.create_ssl_context()}


class Connecting(TypedDict):
    """Options of an HTTP client."""

    trust_env: bool
    verify: ssl.SSLContext | bool


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
