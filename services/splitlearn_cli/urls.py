"""Parses addresses of OpenAI endpoints."""

from ipaddress import ip_address
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


def is_loopback(host: str) -> bool:
    """Whether a host is this machine; proxies from the environment cannot reach it."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
