"""`make bench`: what a step takes in wall and processor time with one thread.

Of a tiny model by the engine, which is mostly what surrounds the model, and of some layers by their runner alone, which
is what the kernels take. Processor time says more than wall time on a machine that has other work.
"""

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import torch

from splitlearn.backends.cpu.backend import ContiguousBackend
from splitlearn.backends.cpu.packing import pack
from splitlearn.build import build_engine
from splitlearn.checkpoints.load import load_part
from splitlearn.engine import DeviceThread, Engine, Limits
from splitlearn.runner.batched import BatchedRunner
from splitlearn.runner.interface import SequenceInput
from tests.benchmarks.contenders import QWEN, ModelShape, make_weights
from tests.benchmarks.figures import Figure, add_json_option, write_report

TINY_LAYERS = "1-4"
# as many layers of Qwen2-0.5B as are told apart from noise, with few token ids: quickly made
SOME = ModelShape(
    name="qwen2-0.5b-8-layers",
    label="Qwen2-0.5B",
    layers="1-7",
    model_type="qwen2",
    config={**QWEN.config, "vocab_size": 1024, "num_hidden_layers": 8},
)
TINY_HISTORY = 64
# sessions, rows that each has already
CASES = ((1, 64), (16, 64), (1, 1000))


@dataclass
class Times:
    """Of one step each, seconds."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def add(self, run: Callable[[], int]) -> None:
        """`run` says how many steps it took."""
        wall, cpu = time.perf_counter(), time.process_time()
        steps = run()
        self.cpu.append((time.process_time() - cpu) / steps)
        self.wall.append((time.perf_counter() - wall) / steps)

    def figures(self, name: str) -> list[Figure]:
        kinds = (("wall time", self.wall), ("processor time", self.cpu))
        return [Figure(f"{name}, {kind}", "ms", [1000 * each for each in found], False) for kind, found in kinds]


def by_engine(weights: str, rounds: int, steps: int) -> Times:
    """A session that decodes alone, from asking for a step to its answer."""
    from support.tiny_models import random_model, save_sepweight, tiny_config

    times = Times()
    with tempfile.TemporaryDirectory() as folder, DeviceThread(1) as thread, asyncio.Runner() as loop:
        dtype = None if weights == "fp32" else "bfloat16"
        part = load_part(save_sepweight(Path(folder), random_model(tiny_config("qwen2")), dtype=dtype), TINY_LAYERS)
        pack(part)

        async def opened() -> tuple[Engine, object]:
            engine = build_engine(part, thread, Limits(max_cached_prefixes=0))
            session = engine.open()
            await engine.step(session, 0, torch.randn(TINY_HISTORY, part.hidden_size).to(part.dtype))
            return engine, session

        async def decode(count: int) -> None:
            for _ in range(count):
                await engine.step(session, TINY_HISTORY, row_1D)

        row_1D = torch.randn(1, part.hidden_size).to(part.dtype)
        engine, session = loop.run(opened())
        loop.run(decode(steps))
        for _ in range(rounds):
            times.add(lambda: loop.run(decode(steps)) or steps)
    return times


def by_runner(weights: str, rounds: int, steps: int) -> Iterator[tuple[str, Times]]:
    part = load_part(make_weights(SOME)[1], SOME.layers)
    pack(part, weights)
    runner = BatchedRunner(part, None, ContiguousBackend)
    row_1D = torch.randn(1, part.hidden_size).to(part.dtype)
    for n_sessions, history in CASES:
        kvs = [runner.new_kv(history + 1) for _ in range(n_sessions)]
        for kv in kvs:
            runner.run([SequenceInput(kv, 0, row_1D.expand(history, -1))])
        inputs, times = [SequenceInput(kv, history, row_1D) for kv in kvs], Times()
        runner.run(inputs)
        for _ in range(rounds):
            times.add(lambda inputs=inputs: [runner.run(inputs) for _ in range(steps)] and steps)
        yield f"6 layers of {SOME.label}, weights {weights}, {n_sessions} sessions behind {history} rows", times


def table(figures: Sequence[Figure]) -> str:
    head = "| what | median, ms | least, ms |\n|---|---|---|\n"
    return head + "".join(f"| {each.name} | {median(each.found):.3f} | {min(each.found):.3f} |\n" for each in figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="the tiny model alone, few rounds")
    add_json_option(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rounds, figures = 10 if options.quick else options.rounds, []
    for weights in ("fp32", "bf16"):
        figures += by_engine(weights, rounds, 50).figures(f"tiny model by the engine, {weights}")
    for weights in () if options.quick else ("none", "int8"):
        for name, times in by_runner(weights, rounds, 2):
            figures += times.figures(name)
    print(f"One thread on {os.cpu_count()} cores, {rounds} rounds.\n\n{table(figures)}")
    write_report(options.json, figures)


if __name__ == "__main__":
    main()
