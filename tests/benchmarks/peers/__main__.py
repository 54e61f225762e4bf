"""`make bench-cpu`: client + trunk against llama.cpp and vLLM on this machine's processor, over HTTP, in one run.

Ours is cut in three, in two processes; the others hold the whole model. All servers of a table run at once and are
asked in turns, so that what else the machine does meets all of them. Between two questions they wait without work.

The first run compiles llama.cpp and installs vLLM into build/peers: minutes, and gigabytes.
"""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from statistics import median

from gguf import GGMLQuantizationType as Kind

from tests.benchmarks.comparison import Comparison, Goal, comparisons, number
from tests.benchmarks.contenders import QWEN, RESULTS, SHAPES, Endpoint, ModelShape, make_weights
from tests.benchmarks.figures import add_json_option, write_report
from tests.benchmarks.linear import read_speed
from tests.benchmarks.peers.servers import AVX2, llama_cpp, ours, vllm
from tests.benchmarks.users import Prompts, together

PROMPT, OUTPUT, LONG_PROMPT = 64, 64, 512
DECODE, PREFILL = "1 user, decode", f"prompt of {LONG_PROMPT}"

Start = Callable[[ModelShape, int], AbstractContextManager[Endpoint]]
Rates = Mapping[str, Mapping[str, Sequence[float]]]
"""Tokens a second, by server and measure, one for each round."""


@dataclass(frozen=True)
class Against:
    """What is to be reached: `ours` of a measure as a share of `other`."""

    measure: str
    ours: str
    other: str
    goal: float


@dataclass(frozen=True, eq=False)
class Table:
    """Servers that are compared.

    Attributes:
        users: how many at once, for each measure with several.
    """

    title: str
    servers: Mapping[str, Start]
    users: Sequence[int]
    goals: Sequence[Against]


def _crowd(users: int) -> str:
    return f"{users} users"


TABLES: Mapping[str, Table] = {
    "bf16": Table(
        "bf16",
        {"ours": ours, "llama.cpp": llama_cpp, "vLLM": vllm},
        (8, 16),
        (
            Against(DECODE, "ours", "llama.cpp", 1.0),
            Against(PREFILL, "ours", "vLLM", 1.0),
            Against(_crowd(16), "ours", "vLLM", 1.0),
        ),
    ),
    "int4": Table(
        "Four bits",
        {
            "ours, int8": lambda shape, threads: ours(shape, threads, "--quantization", "int8"),
            "ours, int4": lambda shape, threads: ours(shape, threads, "--quantization", "int4"),
            "llama.cpp, Q4_0": partial(llama_cpp, kind=Kind.Q4_0),
        },
        (8, 16),
        (
            Against(DECODE, "ours, int4", "ours, int8", 1.6),
            Against(DECODE, "ours, int4", "llama.cpp, Q4_0", 0.95),
        ),
    ),
    "avx2": Table(
        "AVX2 alone, bf16",
        {
            "ours": partial(ours, env=AVX2),
            "llama.cpp": partial(llama_cpp, build="avx2"),
        },
        (8, 16),
        (Against(DECODE, "ours", "llama.cpp", 0.9), Against(PREFILL, "ours", "llama.cpp", 1.0)),
    ),
}


def measures(users: Sequence[int], prompts: Prompts) -> dict[str, Callable[[Endpoint], float]]:
    """By name: tokens a second of a server."""

    def decode(server: Endpoint) -> float:
        one = server.generate(prompts.one(PROMPT), 1)
        return OUTPUT / (server.generate(prompts.one(PROMPT), OUTPUT + 1) - one)

    def prefill(server: Endpoint) -> float:
        return LONG_PROMPT / server.generate(prompts.one(LONG_PROMPT), 1)

    def crowd(count: int, server: Endpoint) -> float:
        return count * OUTPUT / together(server, prompts.many(count, PROMPT), OUTPUT)

    return {DECODE: decode, PREFILL: prefill, **{_crowd(count): partial(crowd, count) for count in users}}


def measured(table: Table, shape: ModelShape, threads: int, rounds: int) -> tuple[Rates, list[float]]:
    """What each server gave in each round after one that warms up, and bytes a second that the memory gave then."""
    found: dict[str, dict[str, list[float]]] = {name: {} for name in table.servers}
    memory = []
    asked = measures(table.users, Prompts(0, shape.vocabulary))
    with ExitStack() as stack:
        servers = {name: stack.enter_context(start(shape, threads)) for name, start in table.servers.items()}
        for number_ in range(rounds + 1):
            memory.append(read_speed())
            for measure, ask in asked.items():
                # who is asked first changes
                for name in sorted(servers, reverse=bool(number_ % 2)):
                    rate = ask(servers[name])
                    if number_:
                        found[name].setdefault(measure, []).append(rate)
            print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return found, memory


def rows(table: Table, rates: Rates) -> list[Comparison]:
    return [
        Comparison(
            f"{each.measure}, {each.ours}, against {each.other}",
            "tokens/s",
            rates[each.other][each.measure],
            rates[each.ours][each.measure],
            Goal(each.goal),
        )
        for each in table.goals
    ]


def medians(rates: Rates) -> str:
    names = list(next(iter(rates.values())))
    lines = [f"| tokens/s | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]
    lines += [
        f"| {name} | {' | '.join(number(median(own[measure])) for measure in names)} |" for name, own in rates.items()
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default=QWEN.name)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--only", nargs="+", choices=TABLES, default=list(TABLES), metavar="TABLE", help=", ".join(TABLES)
    )
    add_json_option(parser)
    options = parser.parse_args()
    shape = SHAPES[options.shape]
    n_bytes = sum(file.stat().st_size for file in make_weights(shape)[0].glob("*.safetensors"))
    parts = [
        f"# Against llama.cpp and vLLM, {shape.label} shape, {datetime.now(UTC):%Y-%m-%d}\n\n"
        f"`python -m tests.benchmarks.peers --shape {shape.name}`: random weights ({n_bytes / 1e9:.2f} GB in bf16), "
        f"greedy, {PROMPT} + {OUTPUT} tokens but for the long prompt, {options.threads} threads in every process on "
        f"{os.cpu_count()} cores, over HTTP. Ours is cut in three (trunk layers {shape.layers}), the others are whole. "
        f"Medians of {options.rounds} rounds in turns.\n"
    ]
    found = []
    for name in options.only:
        table = TABLES[name]
        rates, memory = measured(table, shape, options.threads, options.rounds)
        own = rows(table, rates)
        found += own
        parts += [
            f"## {table.title}\n",
            medians(rates),
            comparisons(own),
            f"A dot product over memory read {number(median(memory) / 1e9)} GB/s in those minutes "
            f"({number(min(memory) / 1e9)} to {number(max(memory) / 1e9)}).\n",
        ]
        print("\n".join(parts[-4:]), flush=True)
    write_report(options.json, [row.figure for row in found])
    if options.json is None and options.only == list(TABLES):
        (RESULTS / f"peers_{shape.name}_{datetime.now(UTC):%Y-%m-%d}.md").write_text("\n".join(parts))


if __name__ == "__main__":
    main()
