"""`make bench`: a trunk's step with the modules' own code, and with less and less of it around our kernels.

Linear layers and norms are packed on all sides.
"""

import os
import time
from collections.abc import Callable, Mapping
from statistics import median

import torch
from torch import nn

from splitlearn.loading import load_part
from splitlearn.packing import pack
from splitlearn.part import Part
from splitlearn.steps.attention import AttentionPlan
from splitlearn.steps.decoder import DecoderStandIn
from splitlearn.steps.layers import LayerPlan
from splitlearn.steps.runner import InBatches, SequenceInput
from splitlearn.steps.standing_in import StandIn
from tests.benchmarks.contenders import QWEN, make_weights

THREADS = 2
HISTORY = 64
SESSIONS = (1, 4, 16)
ROUNDS = 60
SIDES: Mapping[str, tuple[type, ...]] = {
    "own code": (),
    "attention": (AttentionPlan,),
    "whole layers": (AttentionPlan, LayerPlan),
    "decoder": (AttentionPlan, LayerPlan, DecoderStandIn),
}
StandsIn = StandIn | DecoderStandIn


def stand_ins(part: Part) -> dict[nn.Module, StandsIn]:
    forwards = ((module, vars(module).get("forward")) for module in part.modules())
    return {module: forward for module, forward in forwards if isinstance(forward, StandsIn)}


def put(found: Mapping[nn.Module, StandsIn], kinds: tuple[type, ...]) -> None:
    for module, forward in found.items():
        vars(module).pop("forward", None)
        if isinstance(forward.plan if isinstance(forward, StandIn) else forward, kinds):
            module.forward = forward


def steps(part: Part, runner: InBatches, n_sessions: int) -> Callable[[], float]:
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


def lines(weights: str) -> str:
    part = load_part(make_weights(QWEN)[1], QWEN.layers)
    pack(part, weights)
    runner = InBatches(part)
    found = stand_ins(part)
    rows = []
    for n_sessions in SESSIONS:
        step = steps(part, runner, n_sessions)
        times: dict[str, list[float]] = {name: [] for name in SIDES}
        for _ in range(ROUNDS):
            for name, kinds in SIDES.items():
                put(found, kinds)
                times[name].append(step())
        own, *others = (1000 * median(each) for each in times.values())
        rows.append(f"| {weights} | {n_sessions} | {own:.1f} | " + " | ".join(f"{ms:.1f}" for ms in others) + " |\n")
        print(rows[-1], end="", flush=True)
    return "".join(rows)


def main() -> None:
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    head = f"| weights | sessions | {', ms | '.join(SIDES)}, ms |\n{'|---' * (2 + len(SIDES))}|\n"
    table = head + "".join(lines(weights) for weights in ("none", "int8"))
    print(f"\n{QWEN.label}, layers {QWEN.layers}, {THREADS} threads on {os.cpu_count()} cores, medians of {ROUNDS}\n")
    print(table)


if __name__ == "__main__":
    main()
