"""Addresses of services that speak the OpenAI API, as people write them."""

from urllib.parse import urlsplit


def base_url(text: str) -> str:
    """The address without the /v1 that OpenAI's clients want in theirs, and without a slash at the end.

    Raises:
        ValueError: it is no address of a service; the message says what is.
    """
    # httpx comes with an extra, and what only lists flags has no use for it
    import httpx

    text = text.strip()
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0 or any(map(str.isspace, text)):
        raise ValueError("expected http://HOST:PORT or https://HOST")
    if parts.query or parts.fragment:
        raise ValueError("expected http://HOST:PORT or https://HOST, without a question or a fragment")
    try:
        httpx.URL(text)
    except httpx.InvalidURL as error:
        raise ValueError(f"expected http://HOST:PORT or https://HOST ({error})") from error
    return text.rstrip("/").removesuffix("/v1").rstrip("/")
