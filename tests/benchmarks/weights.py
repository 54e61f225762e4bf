"""`python -m tests.benchmarks.weights`: a trunk's steps by how its weights, keys and values are held, in turns.

Loads the same layers once for each kind, and prints tokens per second: of one session, of 16, of a prompt of 512, and
of one session behind a long context. With one thread, processor time, which other programs disturb less.

Shapes: T rows, D hidden size.
"""

import argparse
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from splitlearn.backends.cpu.kernels import kernels
from splitlearn.backends.cpu.packing import pack
from splitlearn.checkpoints.load import load_part
from splitlearn.choices import KVCacheDtype, Quantization
from splitlearn.runner.interface import Runner, SequenceInput
from splitlearn.runner.select import runner_for
from tests.benchmarks.contenders import QWEN, make_weights
from tests.benchmarks.figures import Figure, add_json_option, write_report

KINDS: Sequence[tuple[Quantization, KVCacheDtype]] = (
    ("none", "auto"),
    ("int8", "auto"),
    ("int4", "auto"),
    ("int4", "int8"),
)
HISTORY, PROMPT, PIECE, LONG = 64, 512, 512, 4000
ROUNDS = 12


def filled(runner: Runner[Any], n_rows: int) -> Any:
    """Keys and values of so many rows."""
    kv, part = runner.new_kv(n_rows + 1), runner.part
    rows_TD = torch.randn(n_rows, part.hidden_size).to(part.dtype)
    for first in range(0, n_rows, PIECE):
        runner.run([SequenceInput(kv, first, rows_TD[first : first + PIECE])])
    return kv


def steps(runner: Runner[Any]) -> dict[str, tuple[int, Callable[[], object]]]:
    """By name: how many tokens a step has, and the step."""
    row_1D = torch.randn(1, runner.part.hidden_size).to(runner.part.dtype)
    prompt_TD = torch.randn(PROMPT, runner.part.hidden_size).to(runner.part.dtype)
    sessions, long, new = [filled(runner, HISTORY) for _ in range(16)], filled(runner, LONG), runner.new_kv(PROMPT)
    return {
        "1 session": (1, lambda: runner.run([SequenceInput(sessions[0], HISTORY, row_1D)])),
        "16 sessions": (16, lambda: runner.run([SequenceInput(kv, HISTORY, row_1D) for kv in sessions])),
        f"prompt of {PROMPT}": (PROMPT, lambda: runner.run([SequenceInput(new, 0, prompt_TD)])),
        f"1 session behind {LONG} rows": (1, lambda: runner.run([SequenceInput(long, LONG, row_1D)])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--threads", type=int, default=2)
    add_json_option(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    clock = time.process_time if options.threads == 1 else time.perf_counter
    library = kernels()
    set_name = "no kernels" if library is None else library.instruction_set
    sides = {}
    for weights, kv in KINDS:
        part = load_part(make_weights(QWEN)[1], QWEN.layers)
        pack(part, weights)
        sides[f"weights {weights}, keys and values {kv}"] = steps(runner_for(part, None, kv))
    print(f"\n{QWEN.label}, layers {QWEN.layers}, {set_name}, {options.threads} of {os.cpu_count()} threads")
    print(f"tokens/s, best of {options.rounds} rounds in turns\n")
    names = list(next(iter(sides.values())))
    print(f"| | {' | '.join(names)} |\n{'|---' * (1 + len(names))}|")
    times: dict[tuple[str, str], list[float]] = {(side, name): [] for side in sides for name in names}
    for _ in range(options.rounds):
        for name in names:
            for side, own in sides.items():
                began = clock()
                own[name][1]()
                times[side, name].append(clock() - began)
    figures = []
    for side, own in sides.items():
        rates = {name: [n_tokens / each for each in times[side, name]] for name, (n_tokens, _) in own.items()}
        print(f"| {side} | {' | '.join(f'{max(each):.1f}' for each in rates.values())} |", flush=True)
        figures += [Figure(f"{side}, {name}", "tokens/s", each, more_is_better=True) for name, each in rates.items()]
    write_report(options.json, figures)


if __name__ == "__main__":
    main()
