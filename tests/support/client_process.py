"""`splitlearn client` as a process of its own, and raw HTTP to it."""

import asyncio
import json
import os
import resource
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from support.running_split import PATIENCE

Json = dict[str, Any]


@dataclass
class ClientProcess:
    """A running client service; `lines` are those of its log so far."""

    process: asyncio.subprocess.Process
    host: str
    port: int
    lines: list[Json] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def megabytes(self) -> float:
        return float(psutil.Process(self.process.pid).memory_info().rss) / 2**20

    async def connect(self, stack: AsyncExitStack) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection that the stack breaks off."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        stack.push_async_callback(break_off, writer)
        return reader, writer

    async def exchange(self, *pieces: bytes) -> bytes:
        """Sends the pieces, and reads until the other end closes."""
        async with AsyncExitStack() as stack:
            reader, writer = await self.connect(stack)
            # the answer may come, and the connection be gone, before all is sent
            with suppress(ConnectionError):
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
            return await to_the_end(reader)

    async def counted(self, path: str, method: str, status: int) -> float:
        """How many such requests /metrics tells of."""
        async with httpx.AsyncClient(base_url=self.url, timeout=PATIENCE, trust_env=False) as http:
            text = (await http.get("/metrics")).text
        name = f'splitlearn_client_http_requests_total{{method="{method}",path="{path}",status="{status}"}}'
        found = [line for line in text.splitlines() if line.startswith(name)]
        return float(found[0].split()[-1]) if found else 0.0


async def to_the_end(reader: asyncio.StreamReader) -> bytes:
    """What comes until the connection ends; also by a reset, which is how it ends for one who still sends."""
    found = b""
    async with asyncio.timeout(PATIENCE):
        with suppress(ConnectionResetError):
            while piece := await reader.read(2**16):
                found += piece
    return found


async def break_off(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with suppress(ConnectionError):
        await writer.wait_closed()


def refusal(answer: bytes) -> tuple[int, str]:
    """Status and error code of a raw answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), str(json.loads(body)["error"]["code"])


async def becomes(asked: Callable[[], Awaitable[bool]], *, patience: float = PATIENCE) -> None:
    """Returns as soon as the answer is yes. Raises TimeoutError."""
    deadline = time.monotonic() + patience
    while not await asked():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not true within {patience:g} s")
        await asyncio.sleep(0.01)


@asynccontextmanager
async def client_process(
    weights: Path, trunk: str, *flags: object, host: str = "127.0.0.1", files: int | None = None
) -> AsyncIterator[ClientProcess]:
    """The service, once it listens; killed at the end.

    Args:
        trunk: address of the trunk; nobody need be there.
        files: the limit of open files that it gets.
    """
    words = ("-m", "splitlearn_cli", "--log-format", "json", "client", weights, "--trunk", trunk, "--port", 0)
    words = (*words, "--host", host, "--threads", 1, "--served-model-name", "tiny", *flags)

    def limit() -> None:
        if files is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *map(str, words),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        preexec_fn=limit,
    )
    client = ClientProcess(process, host, 0)
    serving: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    reading = asyncio.create_task(_read(process, client.lines, serving))
    try:
        await asyncio.wait({reading, serving}, return_when=asyncio.FIRST_COMPLETED)
        client.port = serving.result()
        yield client
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await reading


async def _read(process: asyncio.subprocess.Process, lines: list[Json], serving: "asyncio.Future[int]") -> None:
    assert process.stderr is not None
    async for text in process.stderr:
        try:
            line: Json = json.loads(text)
        except ValueError:
            line = {"event": "not a log line", "text": text.decode(errors="replace")}
        lines.append(line)
        if line.get("event") == "listening" and not serving.done():
            serving.set_result(int(line["address"].rpartition(":")[2]))
