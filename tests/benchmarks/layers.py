"""`make bench`: a trunk's step with the modules' own code, and with less and less of it around our kernels.

Linear layers and norms are packed on all sides.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator, Mapping
from statistics import median

import torch
from torch import nn

from splitlearn.backends.cpu.backend import ContiguousBackend
from splitlearn.backends.cpu.fused_attention import AttentionPlan
from splitlearn.backends.cpu.fused_layers import LayerPlan
from splitlearn.backends.cpu.module_fusion import FusedModule
from splitlearn.backends.cpu.packing import pack
from splitlearn.checkpoints.load import load_part
from splitlearn.model.part import Part
from splitlearn.runner.batched import BatchedRunner
from splitlearn.runner.interface import SequenceInput
from tests.benchmarks.contenders import QWEN, make_weights
from tests.benchmarks.figures import Figure, add_json_option, write_report

THREADS = 2
HISTORY = 64
SESSIONS = (1, 4, 16)
ROUNDS = 60
SIDES: Mapping[str, tuple[type, ...]] = {
    "own code": (),
    "attention": (AttentionPlan,),
    "whole layers": (AttentionPlan, LayerPlan),
}
WHOLE = "whole part"
"""All layers in one call, without the model's own forward."""


def fused_modules(part: Part) -> dict[nn.Module, FusedModule]:
    forwards = ((module, vars(module).get("forward")) for module in part.modules())
    return {module: forward for module, forward in forwards if isinstance(forward, FusedModule)}


def put(found: Mapping[nn.Module, FusedModule], kinds: tuple[type, ...]) -> None:
    for module, forward in found.items():
        vars(module).pop("forward", None)
        if isinstance(forward.plan, kinds):
            module.forward = forward


def steps(part: Part, runner: BatchedRunner, n_sessions: int) -> Callable[[], float]:
    """Seconds of one step in which each session brings one row."""
    row_1D = torch.randn(1, part.hidden_size).to(part.dtype)
    kvs = [runner.new_kv(HISTORY + 1) for _ in range(n_sessions)]
    for kv in kvs:
        runner.run([SequenceInput(kv, 0, row_1D.expand(HISTORY, -1))])

    def step() -> float:
        began = time.perf_counter()
        runner.run([SequenceInput(kv, HISTORY, row_1D) for kv in kvs])
        return time.perf_counter() - began

    return step


def measure(weights: str, rounds: int) -> Iterator[tuple[int, dict[str, list[float]]]]:
    """Of how many sessions, and the milliseconds of each side's steps."""
    part = load_part(make_weights(QWEN)[1], QWEN.layers)
    pack(part, weights)
    runner = BatchedRunner(part, None, ContiguousBackend)
    found = fused_modules(part)
    for n_sessions in SESSIONS:
        step = steps(part, runner, n_sessions)
        times: dict[str, list[float]] = {name: [] for name in (*SIDES, WHOLE)}
        for _ in range(rounds):
            times[WHOLE].append(1000 * step())
            # with a hook of somebody's the model's own forward runs
            watching = part.model.register_forward_hook(lambda *_: None)
            for name, kinds in SIDES.items():
                put(found, kinds)
                times[name].append(1000 * step())
            watching.remove()
        yield n_sessions, times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--quick", action="store_true", help="few rounds, to see whether it runs")
    add_json_option(parser)
    options = parser.parse_args()
    rounds = 8 if options.quick else options.rounds
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    print(f"\n{QWEN.label}, layers {QWEN.layers}, {THREADS} threads on {os.cpu_count()} cores, medians of {rounds}\n")
    print(f"| weights | sessions | {', ms | '.join((*SIDES, WHOLE))}, ms |\n{'|---' * (3 + len(SIDES))}|")
    figures = []
    for weights in ("none", "int8"):
        for n_sessions, times in measure(weights, rounds):
            cells = [weights, str(n_sessions), *(f"{median(each):.1f}" for each in times.values())]
            print(f"| {' | '.join(cells)} |", flush=True)
            named = ((f"weights {weights}, {n_sessions} sessions, {name}", each) for name, each in times.items())
            figures += [Figure(name, "ms", each, more_is_better=False) for name, each in named]
    write_report(options.json, figures)


if __name__ == "__main__":
    main()
