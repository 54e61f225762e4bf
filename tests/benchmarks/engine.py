"""`make bench`: the engine on a trunk's part, in one process and without a network.

Shapes: T rows, D hidden size.
"""

import argparse
import asyncio
import ctypes
import gc
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median

import psutil
import torch

from splitlearn.backends.cpu.packing import pack
from splitlearn.build import build_engine
from splitlearn.checkpoints.load import load_part
from splitlearn.engine import DeviceThread, Engine, EngineSession, Limits
from splitlearn.engine.page_accounting import PageAccounting
from splitlearn.engine.scheduler import ScheduledRequest, Scheduler
from splitlearn.runner.interface import SequenceInput
from splitlearn.runner.select import runner_for
from tests.benchmarks.comparison import Comparison, Goal, Measure, comparisons, measures
from tests.benchmarks.contenders import LLAMA, QWEN, RESULTS, ModelShape, make_weights
from tests.benchmarks.figures import add_json_option, write_report

HISTORY = 64
SHORT, LONG = 16, 1024
PROMPT = 512
FRAME = 256
USERS = 16
GOALS = {QWEN: 7.0, LLAMA: 9.0}
SCHEDULED = 256
TINY_LAYERS = "1-4"
# of malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


@dataclass(frozen=True)
class Sizes:
    """How much is run."""

    rounds: int
    threads: int
    steps: int = 16
    kv_users: int = 16
    kv_rows: int = 2000
    openings: int = 20000


@contextmanager
def engine_of(weights: Path, layers: str, threads: int) -> Iterator[tuple[Engine, DeviceThread]]:
    """As the trunk service makes it, without prefix reuse: nothing is named here."""
    with DeviceThread(threads) as thread:
        part = load_part(weights, layers)
        pack(part)
        yield build_engine(part, thread, Limits(max_cached_prefixes=0)), thread


def rows_of(engine: Engine, count: int) -> torch.Tensor:
    part = engine.part
    return torch.randn(count, part.hidden_size, generator=torch.Generator().manual_seed(0)).to(part.dtype)


async def opened(engine: Engine, n_rows: int) -> EngineSession:
    """A session that holds so many rows."""
    session = engine.open()
    await engine.step(session, 0, rows_of(engine, n_rows))
    return session


async def in_turns(sides: Mapping[str, Callable[[], Awaitable[float]]], rounds: int) -> dict[str, list[float]]:
    """What each side gave in each round, after one that warms up."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, run in sides.items():
            value = await run()
            if number:
                found[name].append(value)
    return found


async def decode(engine: Engine, session: EngineSession, position: int, steps: int) -> list[float]:
    """Seconds of each step of one row, always behind the first `position` rows."""
    row_1D = rows_of(engine, 1)
    times = []
    for _ in range(steps):
        began = time.perf_counter()
        await engine.step(session, position, row_1D)
        times.append(time.perf_counter() - began)
    return times


async def many_sessions(engine: Engine, sizes: Sizes) -> dict[str, list[float]]:
    """Tokens a second of one session, and of many at once."""
    sessions = [await opened(engine, HISTORY) for _ in range(USERS)]

    async def tokens_per_second(count: int) -> float:
        began = time.perf_counter()
        await asyncio.gather(*(decode(engine, session, HISTORY, sizes.steps) for session in sessions[:count]))
        return count * sizes.steps / (time.perf_counter() - began)

    found = await in_turns(
        {"1": lambda: tokens_per_second(1), str(USERS): lambda: tokens_per_second(USERS)}, sizes.rounds
    )
    for session in sessions:
        engine.close(session)
    return found


async def histories(engine: Engine, sizes: Sizes) -> dict[str, list[float]]:
    """Milliseconds of a step behind few rows and behind many."""
    sessions = {length: await opened(engine, length) for length in (SHORT, LONG)}

    async def step(length: int) -> float:
        return 1000 * median(await decode(engine, sessions[length], length, sizes.steps))

    found = await in_turns({str(length): partial(step, length) for length in sessions}, sizes.rounds)
    for session in sessions.values():
        engine.close(session)
    return found


async def bare_forwards(engine: Engine, thread: DeviceThread, sizes: Sizes) -> list[Comparison]:
    """A step, from asking to the answer, and the part's own forward of the same rows on the same thread."""
    goal = Goal(1.05, at_most=True)
    part, session = engine.part, await opened(engine, HISTORY)
    cache = part.new_cache()
    part(rows_of(engine, HISTORY), 0, cache)

    async def bare(count: int, position: int, repeats: int) -> float:
        rows_TD, times = rows_of(engine, count), []
        for _ in range(repeats):
            cache.truncate(position)
            _, timing = await thread.run(part, rows_TD, position, cache)
            times.append(1000 * timing.compute_seconds)
        return median(times)

    async def stepped(count: int, position: int, repeats: int) -> float:
        rows_TD, times = rows_of(engine, count), []
        for _ in range(repeats):
            began = time.perf_counter()
            await engine.step(session, position, rows_TD)
            times.append(1000 * (time.perf_counter() - began))
        return median(times)

    found = []
    for count, position, repeats in ((1, HISTORY, sizes.steps), (PROMPT, 0, 1)):
        sides = {"bare": partial(bare, count, position, repeats), "step": partial(stepped, count, position, repeats)}
        times = await in_turns(sides, sizes.rounds)
        what = f"step of {count} {'row' if count == 1 else 'rows'} behind {position}, against the part's own forward"
        found.append(Comparison(what, "ms", times["bare"], times["step"], goal))
    engine.close(session)
    return found


async def bare_batches(engine: Engine, thread: DeviceThread, sizes: Sizes) -> Comparison:
    """A step of many sessions against the runner alone, given the same rows."""
    sessions = [await opened(engine, HISTORY) for _ in range(USERS)]
    row_1D = rows_of(engine, 1)
    runner, _ = await thread.run(runner_for, engine.part)
    kvs = [runner.new_kv(None) for _ in sessions]
    await thread.run(runner.run, [SequenceInput(kv, 0, rows_of(engine, HISTORY)) for kv in kvs])

    async def bare() -> float:
        spans = [SequenceInput(kv, HISTORY, row_1D) for kv in kvs]
        times = [(await thread.run(runner.run, spans))[1].compute_seconds for _ in range(sizes.steps)]
        return 1000 * median(times)

    async def stepped() -> float:
        times = []
        for _ in range(sizes.steps):
            began = time.perf_counter()
            await asyncio.gather(*(engine.step(session, HISTORY, row_1D) for session in sessions))
            times.append(1000 * (time.perf_counter() - began))
        return median(times)

    found = await in_turns({"bare": bare, "step": stepped}, sizes.rounds)
    for session in sessions:
        engine.close(session)
    what = f"step of {USERS} sessions, 1 row each, against the runner alone"
    return Comparison(what, "ms", found["bare"], found["step"], Goal(1.05, at_most=True))


async def kv_bytes(engine: Engine, sizes: Sizes) -> Measure:
    """How much the process grows for rows of many sessions, beside what they should take."""
    rows_TD = rows_of(engine, sizes.kv_rows)

    async def one() -> EngineSession:
        session = engine.open(sizes.kv_rows)
        for start in range(0, sizes.kv_rows, FRAME):
            await engine.step(session, start, rows_TD[start : start + FRAME])
        return session

    async def fill(count: int) -> list[EngineSession]:
        return await asyncio.gather(*(one() for _ in range(count)))

    # once before, for what computing leaves behind
    for session in await fill(2):
        engine.close(session)
    del session
    before = await resident_bytes()
    sessions = await fill(sizes.kv_users)
    held = await resident_bytes() - before
    wanted = sizes.kv_users * sizes.kv_rows * engine.row_bytes
    for session in sessions:
        engine.close(session)
    what = f"growth for {sizes.kv_users} sessions of {sizes.kv_rows} rows"
    detail = f", of {wanted / 1e6:.0f} MB of keys and values"
    return Measure(what, "of them", [held / wanted], Goal(1.03, at_most=True), detail)


async def resident_bytes() -> int:
    """What the process holds, without what it has freed and the allocator keeps for later."""
    # the loop lets go of what the last await gave only when it comes round
    await asyncio.sleep(0)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(psutil.Process().memory_info().rss)


async def openings(engine: Engine, sizes: Sizes) -> Measure:
    """Growth over thousands of sessions that are opened, stepped once and closed."""
    row_1D = rows_of(engine, 1)

    async def one() -> None:
        session = engine.open(64)
        await engine.step(session, 0, row_1D)
        engine.close(session)

    async def many(count: int) -> None:
        for _ in range(count // USERS):
            await asyncio.gather(*(one() for _ in range(USERS)))

    await many(sizes.openings // 10)
    before = await resident_bytes()
    grown = []
    for _ in range(2):
        await many(sizes.openings // 2)
        grown.append((await resident_bytes() - before) / 1e6)
    what = f"growth after {sizes.openings // 2} and {sizes.openings} openings, steps and closings"
    return Measure(what, "MB", grown, Goal(1.0, at_most=True), f" of a process of {before / 1e6:.0f} MB")


def scheduling(sizes: Sizes) -> list[Measure]:
    """The scheduler's own time with many who decode: to decide, and for all that one step takes of it."""
    limits = Limits(max_num_seqs=SCHEDULED)
    scheduler = Scheduler(limits, PageAccounting(1 << 20, limits.page_size))
    deciding, all_of_it = [], []
    for position in range(HISTORY, HISTORY + 50 * sizes.rounds):
        began = time.perf_counter()
        for session in range(SCHEDULED):
            scheduler.submit(ScheduledRequest(session, position, 1, max_length=1 << 20))
        decided = time.perf_counter()
        decision = scheduler.schedule(limits.max_num_batched_tokens)
        deciding.append(time.perf_counter() - decided)
        for slice_ in decision.slices:
            scheduler.advance(slice_.session, slice_.length)
        all_of_it.append(time.perf_counter() - began)
        if len(decision.slices) != SCHEDULED:
            raise SystemExit(f"{len(decision.slices)} of {SCHEDULED} sessions were let run")
    # the first let them in
    return [
        _milliseconds(f"decide() with {SCHEDULED} sessions that decode", deciding[1:], sizes.rounds),
        _milliseconds("the same with their requests submitted and counted", all_of_it[1:], sizes.rounds),
    ]


def _milliseconds(what: str, times: list[float], rounds: int) -> Measure:
    found = [1000 * median(times[i::rounds]) for i in range(rounds)]
    return Measure(what, "ms", found, Goal(1.0, at_most=True))


async def of_shape(shape: ModelShape, sizes: Sizes) -> tuple[list[Comparison], Measure]:
    """What is measured on the trunk of each shape."""
    with engine_of(make_weights(shape)[1], shape.layers, sizes.threads) as (engine, thread):
        found = await many_sessions(engine, sizes)
        name = f"{shape.label}: {USERS} sessions against 1"
        ratios = [Comparison(name, "tokens/s", found["1"], found[str(USERS)], Goal(GOALS[shape]))]
        ratios += [
            Comparison(f"{shape.label}: {row.what}", row.unit, row.base, row.ours, row.goal)
            for row in (*await bare_forwards(engine, thread, sizes), await bare_batches(engine, thread, sizes))
        ]
        times = await histories(engine, sizes)
        more = [many - few for few, many in zip(times[str(SHORT)], times[str(LONG)], strict=True)]
        what = f"{shape.label}: step behind {LONG} rows, more than behind {SHORT}"
        detail = f" ({median(times[str(SHORT)]):.1f} ms)"
    return ratios, Measure(what, "ms", more, Goal(4.0, at_most=True), detail)


async def memory(sizes: Sizes) -> list[Measure]:
    """What sessions take, and leave behind."""
    from support.tiny_models import random_model, save_sepweight, tiny_config

    _give_memory_back_at_once()
    with engine_of(make_weights(QWEN)[1], QWEN.layers, sizes.threads) as (engine, _):
        found = [await kv_bytes(engine, sizes)]
    with tempfile.TemporaryDirectory() as folder:
        weights = save_sepweight(Path(folder), random_model(tiny_config("qwen2")))
        with engine_of(weights, TINY_LAYERS, 1) as (engine, _):
            return [*found, await openings(engine, sizes)]


def _give_memory_back_at_once() -> None:
    """Else glibc keeps some of what was freed, by thresholds that follow what it sees, and sizes say little."""
    for parameter, value in ((_M_MMAP_THRESHOLD, 128 * 1024), (_M_TRIM_THRESHOLD, 128 * 1024)):
        ctypes.CDLL(None).mallopt(parameter, value)


def measure(sizes: Sizes) -> tuple[list[Comparison], list[Measure]]:
    ratios: list[Comparison] = []
    numbers = scheduling(sizes)
    for shape in (QWEN, LLAMA):
        print(f"{shape.label}:", file=sys.stderr, flush=True)
        rows, found = asyncio.run(of_shape(shape, sizes))
        ratios, numbers = [*ratios, *rows], [*numbers, found]
    # last, for what it does to the allocator
    return ratios, numbers + asyncio.run(memory(sizes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see whether it runs")
    add_json_option(parser)
    options = parser.parse_args()
    sizes = Sizes(options.rounds, options.threads)
    if options.quick:
        sizes = Sizes(options.rounds, options.threads, steps=4, kv_users=4, kv_rows=256, openings=640)
    ratios, numbers = measure(sizes)
    text = (
        f"# The engine, {datetime.now(UTC):%Y-%m-%d}\n\n"
        f"`make bench`: random weights, bf16, trunk layers {QWEN.layers} and {LLAMA.layers}, {sizes.threads} threads "
        f"on {os.cpu_count()} cores, {sizes.rounds} rounds in turns; medians, the ratio is ours / against, the median "
        f"of the rounds' ratios.\n\n{comparisons(ratios)}\n{measures(numbers)}"
    )
    print(text)
    write_report(options.json, [row.figure for row in (*ratios, *numbers)])
    if not options.quick and options.json is None:
        (RESULTS / f"engine_{datetime.now(UTC):%Y-%m-%d}.md").write_text(text)


if __name__ == "__main__":
    main()
