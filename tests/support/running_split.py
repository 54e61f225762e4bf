"""Real trunks and client services on the test's own event loop, on free ports of loopback, and one as a child."""

import asyncio
import json
import os
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from openai import AsyncOpenAI
from prometheus_client import CollectorRegistry

import splitlearn_trunk.app
from splitlearn.engine import DeviceThread
from splitlearn_client.api.service import Service
from splitlearn_client.app import build, http_server
from splitlearn_client.serving.server import HTTPServer
from splitlearn_client.serving.tenant_directory import TenantDirectory
from splitlearn_client.settings import ClientSettings
from splitlearn_comm import AsyncGRPCComputeClient, AsyncGRPCComputeServer
from splitlearn_trunk.app import Trunk
from splitlearn_trunk.settings import TrunkSettings

PATIENCE = 60.0
# where tests let sessions wait for each other, a busy machine must not decide who is refused
_QUEUE_TIMEOUT = 600.0
_LOOK_AGAIN = 0.002


async def until(condition: Callable[[], bool], *, within: float = PATIENCE) -> None:
    """Returns as soon as the condition holds.

    Raises:
        TimeoutError: it did not hold `within` seconds.
    """
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not true within {within:g} s")
        await asyncio.sleep(_LOOK_AGAIN)


def free_port() -> int:
    """A port where nobody listens, as good as certainly until it is used."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class RunningTrunk:
    """A worker and a connection to it; `server.stop()` is what its clients see of a death."""

    address: str
    trunk: Trunk
    client: AsyncGRPCComputeClient

    @property
    def fingerprint(self) -> str:
        return self.trunk.info.fingerprint

    @property
    def server(self) -> AsyncGRPCComputeServer:
        return self.trunk.server

    @property
    def thread(self) -> DeviceThread:
        return self.trunk.thread

    def value(self, name: str, **labels: str) -> float:
        """One number of /metrics, its name without the prefix, its labels without the model's name."""
        return _value(self.trunk.metrics.registry, f"splitlearn_trunk_{name}", labels)

    @property
    def open_sessions(self) -> int:
        return int(self.value("num_sessions_open"))


def _value(registry: CollectorRegistry, name: str, labels: dict[str, str]) -> float:
    """0 for a metric without such labels; an unknown name is an error of the test."""
    families = list(registry.collect())
    samples = [sample for family in families for sample in family.samples]
    # a counter with labels has no sample before it has counted
    known = {sample.name for sample in samples} | {f"{family.name}_total" for family in families}
    assert name in known, f"no metric is called {name}"
    found = [
        sample.value
        for sample in samples
        if sample.name == name and {k: v for k, v in sample.labels.items() if k != "model_name"} == labels
    ]
    return found[0] if found else 0.0


@asynccontextmanager
async def running_trunk(
    weights: Path, layers: str | None = None, *, port: int = 0, **settings: Any
) -> AsyncIterator[RunningTrunk]:
    """The trunk of a sepweight directory, serving."""
    own = {"weights": weights, "layers": layers, "port": port, "threads": 1, "queue_timeout": _QUEUE_TIMEOUT}
    settings = {**own, **settings}
    async with AsyncExitStack() as stack:
        trunk = await splitlearn_trunk.app.build(TrunkSettings(**settings), stack)
        await trunk.start()
        stack.push_async_callback(trunk.server.stop)
        address = f"127.0.0.1:{trunk.server.port}"
        client = await stack.enter_async_context(AsyncGRPCComputeClient(address))
        yield RunningTrunk(address, trunk, client)


@dataclass(frozen=True)
class RunningClient:
    """A client service behind a real HTTP server, and two ways to talk to it."""

    service: Service
    http: httpx.AsyncClient
    openai: AsyncOpenAI

    @property
    def is_ready(self) -> bool:
        return self.service.connection.not_ready_reason is None

    async def ready(self) -> None:
        """Returns once a trunk that fits has answered."""
        await until(lambda: self.is_ready)

    async def complete(self, **fields: Any) -> httpx.Response:
        """POST /v1/completions for the served model, greedy unless told otherwise."""
        return await self.http.post("/v1/completions", json={"model": "tiny", "temperature": 0, **fields})

    def value(self, name: str, **labels: str) -> float:
        """One number of /metrics, its name without the prefix, its labels without the model's name."""
        return _value(self.service.metrics.registry, f"splitlearn_client_{name}", labels)


@asynccontextmanager
async def busy(trunk: RunningTrunk) -> AsyncIterator[None]:
    """The trunk's device works on something else and finishes no step, so that no timing decides what a test sees."""
    over = threading.Event()
    work = trunk.thread.run(over.wait)
    try:
        yield
    finally:
        over.set()
        await work


@asynccontextmanager
async def running_client(weights: Path, trunk: str, **settings: Any) -> AsyncIterator[RunningClient]:
    """The client service of a sepweight directory, serving the model "tiny"; it may not be ready yet."""
    settings = {
        "weights": weights,
        "trunk": trunk,
        "served_model_name": "tiny",
        "threads": 1,
        "shutdown_timeout": 1.0,
        "queue_timeout": _QUEUE_TIMEOUT,
        **settings,
    }
    async with AsyncExitStack() as stack:
        given = ClientSettings(**settings)
        service = await build(given, stack)
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        server = http_server(service, given, TenantDirectory.of(given))
        serving = asyncio.create_task(server.run([listening]))
        stack.push_async_callback(_stop, server, serving)
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=4 * PATIENCE, trust_env=False))
        # it gets a pool of connections of its own, so that closing one of `http` closes nothing else
        pool = await stack.enter_async_context(httpx.AsyncClient(timeout=4 * PATIENCE, trust_env=False))
        openai = AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, http_client=pool)
        yield RunningClient(service, http, openai)


async def _stop(server: HTTPServer, serving: "asyncio.Task[None]") -> None:
    server.stop()
    await serving


@dataclass(frozen=True)
class Split:
    """Both ends, connected."""

    trunk: RunningTrunk
    client: RunningClient


@asynccontextmanager
async def running_split(weights: Path, layers: str | None = None, **settings: Any) -> AsyncIterator[Split]:
    """A trunk and a client service with these settings, which is ready."""
    async with running_trunk(weights, layers) as trunk, running_client(weights, trunk.address, **settings) as client:
        await client.ready()
        yield Split(trunk, client)


@asynccontextmanager
async def trunk_process(weights: Path, *, port: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """`splitlearn trunk` as a process of its own, once it has logged that it serves; killed at the end."""
    words = ("-m", "splitlearn_cli", "--log-format", "json", "trunk", weights, "--port", port, "--metrics-port", 0)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *map(str, words),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        async for line in process.stderr:
            if json.loads(line).get("event") == "serving":
                break
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()
