"""`make bench`: client + trunk for one user and for many, over HTTP, against Hugging Face transformers.

Both sides run the same random weights (bf16, greedy) with two threads in every process, and are asked in turns from
the same process. No two prompts begin alike, so that no round profits from what an earlier one left behind.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from statistics import median
from typing import TypeVar

from tests.benchmarks.comparison import Comparison, Goal, Measure, comparisons, measures
from tests.benchmarks.contenders import (
    QWEN,
    RESULTS,
    SHAPES,
    ModelShape,
    Split,
    Whole,
    make_weights,
    split_model,
    whole_model,
)
from tests.benchmarks.figures import add_json_option, write_report
from tests.benchmarks.users import MixedLoad, Prompts, arriving, beside_a_long_prompt, together

T = TypeVar("T")
BLOCK = 32


@dataclass(frozen=True)
class Sizes:
    """How much is asked."""

    prompt: int = 64
    output: int = 64
    prefills: tuple[int, ...] = (512, 2048)
    users: int = 16
    crowd: int = 64
    history: int = 1024
    new: int = 32
    decoding: int = 4
    settle: int = 100
    long_prompt: int = 4096
    mixed: MixedLoad = field(default_factory=MixedLoad)


QUICK = Sizes(
    output=8,
    prefills=(128,),
    users=4,
    crowd=8,
    history=256,
    settle=4,
    long_prompt=512,
    mixed=MixedLoad(count=4, rounds=1, prompt=(32, 200), output=(8, 16)),
)


@dataclass
class Bench:
    """What all sections share, and the rows that they found."""

    shape: ModelShape
    sizes: Sizes
    rounds: int
    threads: int
    prompts: Prompts
    ratios: list[Comparison] = field(default_factory=list)
    numbers: list[Measure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def fitting(self, length: int) -> int:
        """As long as asked, or what the context leaves beside one token."""
        return min(length, self.shape.context - 1)

    def whole(self) -> AbstractContextManager[Whole]:
        return whole_model(make_weights(self.shape)[0], self.threads)

    def split(self, *flags: str) -> AbstractContextManager[Split]:
        weights = make_weights(self.shape)[1]
        return split_model(weights, self.threads, flags, layers=self.shape.layers)

    def in_turns(self, *sides: Callable[[], T]) -> list[list[T]]:
        """What each side gave in each round, after one that warms up; every second round the other way round."""
        found: list[list[T]] = [[] for _ in sides]
        for number in range(self.rounds + 1):
            order = range(len(sides)) if number % 2 else reversed(range(len(sides)))
            for side in order:
                value = sides[side]()
                if number:
                    found[side].append(value)
            print(".", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
        return found

    def compare(self, row: Comparison) -> None:
        print(row.line, flush=True)
        self.ratios.append(row)

    def measure(self, row: Measure) -> None:
        print(row.line, flush=True)
        self.numbers.append(row)


@dataclass(frozen=True)
class Request:
    """Tokens a second while decoding and of the whole request, and milliseconds of wire and queue per token."""

    decode: float
    whole: float
    hop: float


def one_user(bench: Bench) -> None:
    """Decode and whole requests, and what the hop costs."""
    sizes = bench.sizes

    def ask(side: Whole | Split) -> Request:
        one = side.generate(bench.prompts.one(sizes.prompt), 1)
        before = _hop_seconds(side)
        many = side.generate(bench.prompts.one(sizes.prompt), sizes.output + 1)
        hop = 1000 * (_hop_seconds(side) - before) / sizes.output
        return Request(sizes.output / (many - one), (sizes.output + 1) / many, hop)

    with bench.whole() as theirs, bench.split() as ours:
        their, our = bench.in_turns(lambda: ask(theirs), lambda: ask(ours))
    goal = Goal(1.8)
    decodes = [each.decode for each in their], [each.decode for each in our]
    bench.compare(Comparison("1 session, decode, against `generate`", "tokens/s", *decodes, goal))
    wholes = [each.whole for each in their], [each.whole for each in our]
    what = f"1 session, {sizes.prompt} + {sizes.output + 1} tokens, against `generate`"
    bench.compare(Comparison(what, "tokens/s", *wholes, goal))
    hops = [each.hop for each in our]
    bench.measure(Measure("one hop, per token: wire and queue", "ms", hops, Goal(1.5, at_most=True)))


def _hop_seconds(side: Whole | Split) -> float:
    stations = {} if isinstance(side, Whole) else side.last["seconds"]
    return float(stations.get("wire", 0) + stations.get("queue", 0))


def prefill(bench: Bench) -> None:
    """Time to the first token, against one forward of the same tokens."""
    with bench.whole() as theirs, bench.split() as ours:
        for length in map(bench.fitting, bench.sizes.prefills):
            their, our = bench.in_turns(
                partial(_rate, theirs.forward, bench.prompts, length),
                partial(_rate, partial(ours.generate, n=1), bench.prompts, length),
            )
            bench.compare(Comparison(f"prompt of {length}, against one forward", "tokens/s", their, our, Goal(1.3)))


def _rate(ask: Callable[[list[int]], float], prompts: Prompts, length: int) -> float:
    return length / ask(prompts.one(length))


def many_users(bench: Bench) -> None:
    """Users at once, against a batch of as many prompts, and more users against those."""
    sizes, prompts = bench.sizes, bench.prompts
    with bench.whole() as theirs, bench.split() as ours:

        def batch() -> float:
            seconds = theirs.generate_batch(prompts.many(sizes.users, sizes.prompt), sizes.output)
            return sizes.users * sizes.output / seconds

        def users(count: int) -> float:
            return count * sizes.output / together(ours, prompts.many(count, sizes.prompt), sizes.output)

        their, our, crowd = bench.in_turns(batch, lambda: users(sizes.users), lambda: users(sizes.crowd))
    what = f"{sizes.users} sessions, {sizes.prompt} + {sizes.output} tokens, against `generate` of as many prompts"
    bench.compare(Comparison(what, "tokens/s", their, our, Goal(1.6)))
    bench.compare(Comparison(f"{sizes.crowd} sessions against {sizes.users}", "tokens/s", our, crowd, Goal(1.0)))


def mixed_load(bench: Bench) -> None:
    """The same arrivals on both sides; tokens that were made a second, until the last one."""
    load = bench.sizes.mixed
    their, our = [], []
    with bench.whole() as theirs, bench.split() as ours:
        ours.generate(bench.prompts.one(bench.sizes.prompt), bench.sizes.output)
        # few rounds, and no more to warm up: each takes minutes
        for number in range(load.rounds):
            requests = load.requests(number, bench.shape.vocabulary)
            tokens = sum(each["n"] for each in requests)
            their.append(tokens / theirs.continuous(requests))
            our.append(tokens / arriving(ours, requests))
    what = (
        f"{load.count} requests, {load.rate:g} a second (Poisson), prompts {load.prompt[0]}-{load.prompt[1]}, "
        f"outputs {load.output[0]}-{load.output[1]}, against continuous batching of transformers"
    )
    bench.compare(Comparison(what, "tokens/s", their, our, Goal(1.5)))


def second_turn(bench: Bench) -> None:
    """Time to the first token after a history that the services know, with and without prefix reuse."""
    sizes, prompts = bench.sizes, bench.prompts

    def turn(side: Split, reused: int) -> float:
        history = prompts.one(sizes.history)
        side.generate(history, 1)
        seconds = side.generate([*history, *prompts.one(sizes.new)], 1)
        if side.last_reused != reused:
            raise SystemExit(f"{side.last_reused} tokens of the history were reused, not {reused}")
        return 1000 * seconds

    with bench.split() as reusing, bench.split("--no-enable-prefix-caching") as other:
        without, with_reuse = bench.in_turns(
            lambda: turn(other, 0), lambda: turn(reusing, sizes.history // BLOCK * BLOCK)
        )
    what = f"second turn, {sizes.history} + {sizes.new} tokens, first token, against no prefix reuse"
    bench.compare(Comparison(what, "ms", without, with_reuse, Goal(0.15, at_most=True)))


def int8(bench: Bench) -> None:
    """One user's decoding with int8 weights against the same with weights as stored."""
    sizes, prompts = bench.sizes, bench.prompts

    def decode(side: Split) -> float:
        one = side.generate(prompts.one(sizes.prompt), 1)
        return sizes.output / (side.generate(prompts.one(sizes.prompt), sizes.output + 1) - one)

    with bench.split() as native, bench.split("--quantization", "int8") as rounded:
        stored, small = bench.in_turns(lambda: decode(native), lambda: decode(rounded))
    bench.compare(Comparison("1 session, decode, int8 weights against bf16", "tokens/s", stored, small, Goal(1.5)))


def long_prompt(bench: Bench) -> None:
    """What a long prompt does to those who decode."""
    sizes = bench.sizes
    length = bench.fitting(sizes.long_prompt)
    with bench.split() as ours:
        found = []
        for number in range(bench.rounds + 1):
            users = bench.prompts.many(sizes.decoding, sizes.prompt)
            waits = beside_a_long_prompt(ours, users, bench.prompts.one(length), sizes.settle)
            found += [waits] if number else []
    what = f"longest wait for a token of {sizes.decoding} sessions while a prompt of {length} comes, against the median"
    usual, worst = [1000 * each.usual for each in found], [1000 * each.worst for each in found]
    bench.compare(Comparison(f"{what} before", "ms", usual, worst, Goal(2.5, at_most=True)))
    between = median(1000 * median(each.beside) for each in found)
    late, late_before = (1000 * median(waits) for waits in zip(*((w.late, w.late_before) for w in found), strict=True))
    seconds = median(each.prompt_seconds for each in found)
    bench.notes.append(
        f"While the prompt of {length} is computed, the median wait is {between:.0f} ms and one in a hundred is longer "
        f"than {late:.0f} ms, before it than {late_before:.0f} ms. Its first token comes after {seconds:.1f} s."
    )


SECTIONS: dict[str, Callable[[Bench], None]] = {
    "one": one_user,
    "prefill": prefill,
    "many": many_users,
    "mixed": mixed_load,
    "turn": second_turn,
    "int8": int8,
    "long": long_prompt,
}


def report(bench: Bench) -> str:
    parts = [
        f"# Many users, {bench.shape.label} shape, {datetime.now(UTC):%Y-%m-%d}\n",
        f"`python -m tests.benchmarks.many_users --shape {bench.shape.name}`: random weights, bf16, greedy, trunk "
        f"layers {bench.shape.layers}, {bench.threads} threads in every process on {os.cpu_count()} cores, "
        f"{bench.rounds} rounds in turns; medians, the ratio is ours / against, the median of the rounds' ratios.\n",
        comparisons(bench.ratios),
        measures(bench.numbers),
        *(f"{note}\n" for note in bench.notes),
    ]
    return "\n".join(part for part in parts if part)


def run(bench: Bench, sections: Sequence[str]) -> str:
    for name in sections:
        print(f"{name}:", file=sys.stderr, flush=True)
        SECTIONS[name](bench)
    return report(bench)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default=QWEN.name)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--quick", action="store_true", help="small sizes, to see whether it runs")
    add_json_option(parser)
    options = parser.parse_args()
    shape = SHAPES[options.shape]
    sizes = QUICK if options.quick else Sizes()
    bench = Bench(shape, sizes, options.rounds, options.threads, Prompts(options.rounds, shape.vocabulary))
    make_weights(shape)
    text = run(bench, options.only or list(SECTIONS))
    print(text)
    write_report(options.json, [row.figure for row in (*bench.ratios, *bench.numbers)])
    if not options.quick and not options.only and options.json is None:
        (RESULTS / f"many_users_{shape.name}_{datetime.now(UTC):%Y-%m-%d}.md").write_text(text)


if __name__ == "__main__":
    main()
