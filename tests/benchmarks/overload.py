"""Ten times more users than fit, over HTTP: the pace of those who are admitted, and what the others are told.

Each user asks again and again, waits as long as `Retry-After` says when it is refused, and reads streams to their end.
The users that fit are measured before and after, alone. They begin one after the other in each phase: of users in step
with each other nobody decodes while another's prompt is computed, which is not so in overload. Then a thousand ask at
once.
"""

import argparse
import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import mean, median

import httpx
import psutil

from tests.benchmarks.contenders import LAYERS, Split, make_weights, split_model
from tests.benchmarks.users import Prompts

ROW_BYTES = 20 * 2 * 2 * 64 * 2
"""Keys and values of one token in the trunk's 20 layers: 2 heads of 64 values in bfloat16."""


@dataclass(frozen=True)
class Sizes:
    """How much is asked."""

    fitting: int = 8
    users: int = 80
    crowd: int = 1000
    prompt: int = 32
    output: int = 96
    alone_seconds: float = 40.0
    overload_seconds: float = 150.0

    @property
    def kv_cache_bytes(self) -> int:
        """What the sessions that fit may become, and no page more: a ninth would slow the others by its rows."""
        return self.fitting * (self.prompt + self.output) * ROW_BYTES


QUICK = Sizes(fitting=4, users=40, crowd=200, output=16, alone_seconds=10.0, overload_seconds=20.0)


@dataclass
class Found:
    """What the users of one phase met. Seconds."""

    per_token: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    refusals: list[float] = field(default_factory=list)
    told: list[float] = field(default_factory=list)
    came_true: list[float] = field(default_factory=list)
    """From the first refusal to the first token, as a multiple of what the first refusal said."""
    statuses: Counter[str] = field(default_factory=Counter)


@dataclass
class Services:
    """What the services' processes, and these users beside them, use in the measured time of a phase."""

    processes: Sequence[psutil.Process]
    began: float = 0.0
    cpu: dict[str, float] = field(default_factory=dict)
    """Cores in use on average, by the process."""
    memory: tuple[int, int] = (0, 0)
    """Resident bytes of the services at the beginning and at the end."""

    @classmethod
    def running(cls) -> "Services":
        return cls(psutil.Process().children())

    def begin(self) -> None:
        self.began, self.cpu, self.memory = time.perf_counter(), self._seconds(), (self._resident(), 0)

    def end(self) -> None:
        wall, now = time.perf_counter() - self.began, self._seconds()
        self.cpu = {name: (now[name] - seconds) / wall for name, seconds in self.cpu.items()}
        self.memory = (self.memory[0], self._resident())

    def _resident(self) -> int:
        return sum(process.memory_info().rss for process in self.processes)

    def _seconds(self) -> dict[str, float]:
        named = {"users": psutil.Process()} | {_verb(process): process for process in self.processes}
        return {name: sum(process.cpu_times()[:2]) for name, process in named.items()}


def _verb(process: psutil.Process) -> str:
    """Which service a process is, by its command line."""
    words = process.cmdline()
    return next((verb for verb in ("client", "trunk") if verb in words), str(process.pid))


async def user(
    http: httpx.AsyncClient,
    split: Split,
    prompts: Prompts,
    sizes: Sizes,
    measured: Found,
    times: tuple[float, float, float],
) -> None:
    """Asks until the end, and then finishes what it has begun. What began before the start is not measured.

    Args:
        times: its first question, the start and the end.
    """
    first, start, end = times
    await asyncio.sleep(first - time.perf_counter())
    refused: tuple[float, float] | None = None
    while time.perf_counter() < end:
        body = {**split.body(prompts.one(sizes.prompt), sizes.output), "stream": True}
        began = time.perf_counter()
        found = measured if began >= start else Found()
        async with http.stream("POST", "/v1/completions", json=body) as reply:
            if reply.status_code != 200:
                found.statuses[str(reply.status_code)] += 1
                await reply.aread()
                seconds = float(reply.headers.get("Retry-After", 1.0))
                found.refusals.append(time.perf_counter() - began)
                found.told.append(seconds)
                refused = refused or (began, seconds)
            else:
                tokens, error = await read(reply)
                found.statuses[error or "200"] += 1
                if refused is not None and tokens:
                    found.came_true.append((tokens[0] - refused[0]) / refused[1])
                    refused = None
                note(found, began, tokens)
                continue
        await asyncio.sleep(min(seconds, max(0.0, end - time.perf_counter())))


async def read(reply: httpx.Response) -> tuple[list[float], str]:
    """When each token came, and the code of the error that ended the stream, if one did."""
    times: list[float] = []
    async for line in reply.aiter_lines():
        if line.startswith("data: {"):
            chunk = json.loads(line.removeprefix("data: "))
            if "error" in chunk:
                return times, str(chunk["error"]["code"])
            times.append(time.perf_counter())
    return times, ""


def note(found: Found, began: float, times: Sequence[float]) -> None:
    if len(times) < 2:
        return
    found.waits.append(times[0] - began)
    found.per_token.append((times[-1] - times[0]) / (len(times) - 1))
    found.gaps.append(max(late - early for early, late in pairwise(times)))


async def phase(split: Split, prompts: Prompts, sizes: Sizes, users: int, seconds: float, services: Services) -> Found:
    """What the users meet in so many seconds, after a fourth of that in which nothing is measured."""
    now = time.perf_counter()
    start, found = now + seconds / 4, Found()
    asyncio.get_running_loop().call_later(seconds / 4, services.begin)
    asyncio.get_running_loop().call_later(seconds / 4 + seconds, services.end)
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=split.url, timeout=600, limits=limits) as http, asyncio.TaskGroup() as group:
        for number in range(users):
            first = now + (start - now) * number / users
            group.create_task(user(http, split, prompts, sizes, found, (first, start, start + seconds)))
    return found


async def crowd(split: Split, prompts: Prompts, sizes: Sizes) -> Found:
    """All at once, each a single time. Over plain sockets, as httpx would take longer than the service."""
    found, url = Found(), httpx.URL(split.url)
    bodies = [json.dumps(split.body(prompts.one(sizes.prompt), 1)).encode() for _ in range(sizes.crowd)]

    async def one(body: bytes) -> None:
        began = time.perf_counter()
        reader, writer = await asyncio.open_connection(url.host, url.port)
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {url.host}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        status = (await reader.readline()).split()[1].decode()
        found.statuses[status] += 1
        if status != "200":
            found.refusals.append(time.perf_counter() - began)
        await reader.read()
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*map(one, bodies))
    return found


def metric(text: str, name: str) -> float:
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))


def preemptions(split: Split) -> float:
    client = metric(httpx.get(f"{split.url}/metrics").text, "splitlearn_client_num_replays_total")
    trunk = metric(httpx.get(split.ports.trunk_metrics).text, "splitlearn_trunk_num_preemptions_total")
    return max(client, trunk)


def share(values: Sequence[float], low: float, high: float) -> float:
    return mean(low <= value <= high for value in values) if values else float("nan")


def p(values: Sequence[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.overload", description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--queue-timeout", type=float, default=30.0)
    given = parser.parse_args()
    sizes = QUICK if given.quick else Sizes()
    weights = make_weights()[1]
    prompts = Prompts(0, 30000)
    flags = ("--queue-timeout", str(given.queue_timeout))
    trunk_flags = ("--kv-cache-memory-bytes", str(sizes.kv_cache_bytes))
    with split_model(weights, 1, flags, layers=LAYERS, trunk_flags=trunk_flags) as split:
        quiet, loaded = Services.running(), Services.running()
        before = asyncio.run(phase(split, prompts, sizes, sizes.fitting, sizes.alone_seconds, quiet))
        lost = preemptions(split)
        over = asyncio.run(phase(split, prompts, sizes, sizes.users, sizes.overload_seconds, loaded))
        lost = preemptions(split) - lost
        after = asyncio.run(phase(split, prompts, sizes, sizes.fitting, sizes.alone_seconds, Services.running()))
        many = asyncio.run(crowd(split, prompts, sizes))
    alone = before.per_token + after.per_token
    print(f"{sizes.fitting} users alone: {1000 * median(alone):.1f} ms per token, {len(alone)} answers")
    print(f"{sizes.users} users: {1000 * median(over.per_token):.1f} ms per token, {len(over.per_token)} answers")
    print(f"pace of the admitted: {median(alone) / median(over.per_token):.2f} of that alone")
    for name, used in (("alone", quiet), ("under overload", loaded)):
        print(f"cores in use {name}: {', '.join(f'{each} {cores:.2f}' for each, cores in used.cpu.items())}")
    print(f"longest gap between tokens: {max(before.gaps + after.gaps):.2f} s alone, {max(over.gaps):.2f} s")
    print(f"waits of the admitted for the first token: p50 {median(over.waits):.1f} s, p99 {p(over.waits, 0.99):.1f} s")
    print(f"answers and refusals: {dict(over.statuses)}; preempted: {lost:.0f}")
    if over.refusals:
        print(
            f"refused within: p50 {1000 * median(over.refusals):.0f} ms, p99 {1000 * p(over.refusals, 0.99):.0f} ms; "
            f"told to come back in {min(over.told):.0f} to {max(over.told):.0f} s"
        )
        print(
            f"from the first refusal to the first token, by what it said: p50 {median(over.came_true or [0]):.2f}, "
            f"within a factor of two {share(over.came_true, 0.5, 2.0):.0%} of {len(over.came_true)}"
        )
    print(f"memory: {loaded.memory[0] / 2**20:.0f} MiB, at the end {loaded.memory[1] / 2**20:.0f} MiB")
    print(
        f"{sizes.crowd} at once: {dict(many.statuses)}; refused within: p50 {1000 * p(many.refusals, 0.5):.0f} ms, "
        f"p99 {1000 * p(many.refusals, 0.99):.0f} ms"
    )


if __name__ == "__main__":
    main()
