"""Certificates in files, and a plain gRPC server that is asked through them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from splitlearn_comm.certificates import CertifiedKey, issue, make_authority
from splitlearn_comm.tls import TLSFiles

NOW = datetime.now(UTC)
LONG_AGO = NOW - timedelta(days=20)


def authority() -> CertifiedKey:
    return make_authority(LONG_AGO, 3650)


def worker_of(ca: CertifiedKey) -> CertifiedKey:
    return issue(ca, ["localhost", "127.0.0.1"], is_server=True, now=NOW, days=30)


def client_of(ca: CertifiedKey, *, is_expired: bool = False) -> CertifiedKey:
    return issue(ca, ["web"], is_server=False, now=LONG_AGO if is_expired else NOW, days=10)


def save(folder: Path, ca: CertifiedKey, pair: CertifiedKey, name: str) -> TLSFiles:
    files = TLSFiles(folder / "ca.crt", folder / f"{name}.crt", folder / f"{name}.key")
    replace(folder / "ca.crt", ca.certificate)
    replace(folder / f"{name}.crt", pair.certificate)
    replace(folder / f"{name}.key", pair.key)
    return files


def replace(path: Path, content: bytes) -> None:
    """In one step, as those do who replace a file that somebody reads."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_bytes(content)
    fresh.replace(path)


class _Echo(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    def service(self, _details: Any) -> Any:
        async def stream(requests: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
            async for request in requests:
                yield request

        return grpc.stream_stream_rpc_method_handler(stream)


@asynccontextmanager
async def echo_server(credentials: grpc.ServerCredentials) -> AsyncIterator[str]:
    """Yields its HOST:PORT."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Echo(),))
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


class EchoClient:
    """One channel and one call on it, which stays open."""

    def __init__(self, address: str, credentials: grpc.ChannelCredentials, options: Any = ()) -> None:
        own_connections = ("grpc.use_local_subchannel_pool", 1)
        self.channel = grpc.aio.secure_channel(address, credentials, options=(own_connections, *options))
        self._call = self.channel.stream_stream("/echo/Echo")(timeout=30)

    async def echo(self, word: bytes = b"hello") -> bytes:
        await self._call.write(word)
        return bytes(await self._call.read())

    async def __aenter__(self) -> "EchoClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()


async def why_refused(address: str, credentials: grpc.ChannelCredentials, options: Any = ()) -> grpc.aio.AioRpcError:
    """How a call ends that has to fail."""
    async with EchoClient(address, credentials, options) as client:
        try:
            answer = await client.echo()
        except grpc.aio.AioRpcError as error:
            return error
    raise AssertionError(f"the server answered {answer!r}")
