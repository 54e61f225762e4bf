"""Every panel's query in a real Prometheus that has watched real services under load: each returns series.

Grafana does not run here. `make test-dashboards` needs the program `prometheus` (Debian's package of that name), and
`make test-docker` takes the image of docker-compose.yml.
"""

import asyncio
import json
import math
import os
import shutil
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from support.client_process import Json, becomes, client_process
from support.dashboards import Target, targets
from support.running_split import PATIENCE, free_port

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy/helm/splitlearn/files/alerts.yaml"
# longer than the whole load, so that a rate sees what happened once
RANGE_SECONDS = 120
DEADLINE_SECONDS = 30.0
QUIET: Json = {"stdout": asyncio.subprocess.DEVNULL, "stderr": asyncio.subprocess.DEVNULL}
Runs = Callable[..., AbstractAsyncContextManager[None]]
STREAM: Json = {"model": "tiny", "prompt": list(range(20, 120)), "max_tokens": 350, "temperature": 0, "stream": True}


@dataclass
class Worker:
    """`splitlearn trunk` as a process."""

    process: asyncio.subprocess.Process
    line: Json = field(default_factory=dict)

    @property
    def address(self) -> str:
        return str(self.line["address"])

    @property
    def metrics(self) -> str:
        return str(self.line["metrics"]).removeprefix("http://").removesuffix("/metrics")


@asynccontextmanager
async def process(*words: object, **options: Any) -> AsyncIterator[asyncio.subprocess.Process]:
    """Killed at the end."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = await asyncio.create_subprocess_exec(*map(str, words), env=environment, **options)
    try:
        yield running
    finally:
        with suppress(ProcessLookupError):
            running.kill()
        await running.communicate()


async def worker(stack: AsyncExitStack, weights: Path, layers: str, *flags: object) -> Worker:
    """A trunk that serves."""
    words = (sys.executable, "-m", "splitlearn_cli", "--log-format", "json", "trunk", weights, "--layers", layers)
    ports = ("--port", 0, "--metrics-port", 0, "--threads", 1)
    running = await stack.enter_async_context(process(*words, *ports, *flags, stderr=asyncio.subprocess.PIPE))
    assert running.stderr is not None
    found = Worker(running)
    async for text in running.stderr:
        line = json.loads(text)
        if line.get("event") == "serving":
            found.line = line
            break
    reading = asyncio.create_task(_discard(running.stderr))
    stack.callback(reading.cancel)
    return found


async def _discard(stream: asyncio.StreamReader) -> None:
    async for _ in stream:
        pass


@dataclass(frozen=True)
class Watch:
    """A Prometheus, and when it began to watch."""

    http: httpx.AsyncClient
    began: float

    async def query(self, expression: str) -> list[Json]:
        """The series of an expression over the whole time, one value a second."""
        span = {"start": self.began, "end": time.time(), "step": 1}
        answer = await self.http.get("/api/v1/query_range", params={"query": expression, **span})
        assert answer.status_code == 200, answer.text
        found: list[Json] = answer.json()["data"]["result"]
        return found

    async def has_values(self, expression: str) -> bool:
        """Whether some series has a number."""
        return any(math.isfinite(float(value)) for each in await self.query(expression) for _, value in each["values"])


@asynccontextmanager
async def program(folder: Path, *flags: str) -> AsyncIterator[None]:
    """Prometheus as this machine has it, with the configuration in the folder."""
    words = ("prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}")
    async with process(*words, *flags, **QUIET):
        yield


@asynccontextmanager
async def image(folder: Path, *flags: str) -> AsyncIterator[None]:
    """The same in compose's image, on this machine's network."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["prometheus"]
    name, tag = f"splitlearn-test-{uuid.uuid4().hex[:8]}", compose["image"].partition(":-")[2].removesuffix("}")
    # as files: the folder is for this user only
    mounts = [f"--volume={path}:{path}:ro" for path in (folder / "prometheus.yml", RULES)]
    own = (f"--config.file={folder / 'prometheus.yml'}", "--storage.tsdb.path=/prometheus")
    try:
        async with process(
            "docker", "run", "--rm", "--network=host", f"--name={name}", *mounts, tag, *own, *flags, **QUIET
        ):
            yield
    finally:
        removing = await asyncio.create_subprocess_exec("docker", "rm", "--force", name, **QUIET)
        await removing.wait()


@asynccontextmanager
async def watching(run: Runs, folder: Path, jobs: dict[str, list[str]]) -> AsyncIterator[Watch]:
    """A Prometheus with the chart's rules, once all of these targets are up."""
    port = free_port()
    scraping = [{"job_name": name, "static_configs": [{"targets": each}]} for name, each in jobs.items()]
    configuration = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": scraping,
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    began = time.time()
    url = f"http://127.0.0.1:{port}"
    async with (
        run(folder, f"--web.listen-address=127.0.0.1:{port}"),
        httpx.AsyncClient(base_url=url, timeout=PATIENCE, trust_env=False) as http,
    ):
        watch = Watch(http, began)

        async def all_up() -> bool:
            # it refuses connections at first, and then queries
            with suppress(httpx.HTTPError):
                answer = (await http.get("/api/v1/query", params={"query": "up == 1"})).raise_for_status()
                return len(answer.json()["data"]["result"]) == sum(map(len, jobs.values()))
            return False

        await becomes(all_up)
        yield watch


async def stream(http: httpx.AsyncClient, begun: asyncio.Event) -> str:
    """The last line of a streamed answer; `begun` is set when its first token has come."""
    last = ""
    async with http.stream("POST", "/v1/completions", json=STREAM) as response:
        async for line in response.aiter_lines():
            begun.set()
            last = line or last
    return last


async def load(http: httpx.AsyncClient, workers: list[Worker]) -> None:
    """Answers, refusals, cached prefixes, streams of which some lose their worker, and an error without any worker."""
    short = {**STREAM, "max_tokens": 4, "stream": False}
    for body, status in [(short, 200), (short, 200), ({**short, "model": "nobody"}, 404), ({**short, "n": 700}, 400)]:
        assert (await http.post("/v1/completions", json=body)).status_code == status
    begun = [asyncio.Event() for _ in range(8)]
    streams = [asyncio.create_task(stream(http, each)) for each in begun]
    for each in begun:
        await each.wait()
    workers[0].process.kill()
    assert await asyncio.gather(*streams) == ["data: [DONE]"] * 8
    workers[1].process.kill()
    assert (await http.post("/v1/completions", json=short)).status_code in (502, 503)


async def without_values(watch: Watch, wanted: list[Target]) -> list[Target]:
    """The queries that have no number within the deadline."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while wanted and time.monotonic() < deadline:
        # what has happened shows with the next scrape
        await asyncio.sleep(0.5)
        wanted = [each for each in wanted if not await watch.has_values(each.over(RANGE_SECONDS))]
    return wanted


@pytest.mark.parametrize(
    "run",
    [
        pytest.param(
            program,
            marks=[
                pytest.mark.slow,
                pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs the program prometheus"),
            ],
        ),
        pytest.param(image, marks=pytest.mark.docker),
    ],
)
async def test_every_panel_shows_something_after_load(run: Runs, tiny_weights: Path, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        last = [await worker(stack, tiny_weights, "2-4") for _ in range(2)]
        addresses = ",".join(each.address for each in last)
        first = await worker(stack, tiny_weights, "1-2", "--next", addresses)
        client = await stack.enter_async_context(client_process(tiny_weights, first.address, "--failover-timeout", 2))
        http = await stack.enter_async_context(
            httpx.AsyncClient(base_url=client.url, timeout=4 * PATIENCE, trust_env=False)
        )

        async def is_ready() -> bool:
            return (await http.get("/ready")).status_code == 200

        await becomes(is_ready)
        jobs = {"trunk": [each.metrics for each in (first, *last)], "client": [f"{client.host}:{client.port}"]}
        watch = await stack.enter_async_context(watching(run, tmp_path, jobs))
        await load(http, last)
        assert await without_values(watch, targets()) == []
        rules = (await watch.http.get("/api/v1/rules")).json()["data"]["groups"]
        health = {rule["name"]: rule["health"] for group in rules for rule in group["rules"]}
        assert health
        assert set(health.values()) == {"ok"}
