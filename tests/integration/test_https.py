"""The API over TLS, as a process of its own: the same limits, and a certificate that is renewed while it serves."""

import asyncio
import ssl
from contextlib import AsyncExitStack
from pathlib import Path

import httpx

from splitlearn_comm.certificates import CertifiedKey, fingerprint_of
from support.client_process import ClientProcess, becomes, client_process, to_the_end
from support.running_split import PATIENCE, free_port
from support.tls import save, worker_of


async def test_https_serves_refuses_and_takes_a_renewed_certificate(
    tiny_weights: Path, tmp_path: Path, ca: CertifiedKey
) -> None:
    files = save(tmp_path, ca, worker_of(ca), "api")
    trusting = ssl.create_default_context(cadata=ca.certificate.decode())
    flags = ("--ssl-certfile", files.certificate, "--ssl-keyfile", files.key, "--header-timeout", 1)
    async with client_process(tiny_weights, f"127.0.0.1:{free_port()}", *flags) as client:
        url = f"https://127.0.0.1:{client.port}"
        assert [line["page"] for line in client.lines if line["event"] == "listening"] == [f"{url}/"]
        async with httpx.AsyncClient(base_url=url, verify=trusting, timeout=PATIENCE, trust_env=False) as http:
            assert (await http.get("/health")).status_code == 200
            unready = await http.post("/v1/completions", json={"model": "tiny", "prompt": "x"})
            assert unready.status_code == 503
            assert unready.json()["error"]["code"] == "trunk_not_ready"

        assert b"400" in await exchanged(client, trusting, b"no request of HTTP\r\n\r\n")
        # the headers never end
        assert b"408" in await exchanged(client, trusting, b"GET /health HTTP/1.1\r\n")

        renewed = worker_of(ca)
        save(tmp_path, ca, renewed, "api")

        async def is_renewed() -> bool:
            return await shown(client, trusting) == renewed.fingerprint

        await becomes(is_renewed)
        assert not [line for line in client.lines if line.get("level") in ("error", "critical")]


async def test_a_client_that_is_open_to_a_network_says_what_is_missing(tiny_weights: Path) -> None:
    reasons: list[list[str]] = []
    for flags in (("--host", "0.0.0.0"), ("--host", "0.0.0.0", "--api-key", "a-key-for-all-of-them"), ()):
        async with client_process(tiny_weights, f"127.0.0.1:{free_port()}", *flags) as client:
            told = [line for line in client.lines if line["event"] == "the API is open to the network"]
            reasons.append([line["reason"] for line in told])
    (both,), (unencrypted,), local = reasons
    assert "no TLS" in both
    assert "no keys" in both
    assert "no TLS" in unencrypted
    assert "no keys" not in unencrypted
    assert local == []


async def exchanged(client: ClientProcess, context: ssl.SSLContext, request: bytes) -> bytes:
    async with AsyncExitStack() as stack:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port, ssl=context)
        stack.callback(writer.transport.abort)
        writer.write(request)
        return await to_the_end(reader)


async def shown(client: ClientProcess, context: ssl.SSLContext) -> str:
    _, writer = await asyncio.open_connection("127.0.0.1", client.port, ssl=context)
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return fingerprint_of(der)
