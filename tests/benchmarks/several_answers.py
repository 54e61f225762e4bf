"""Eight answers to a prompt against one: the times to the first token of any answer, and of the last one.

The prompts are new each time, so that nothing of them is cached, and the sides take turns.
"""

import argparse
import json
import time
from collections.abc import Sequence
from statistics import median

import httpx

from tests.benchmarks.contenders import LAYERS, Split, make_weights, split_model
from tests.benchmarks.users import Prompts

ANSWERS = 8


def first_tokens(split: Split, prompt: Sequence[int], n: int, output: int) -> list[float]:
    """Seconds until the first token of each of `n` answers."""
    body = {**split.body(prompt, output), "temperature": 1.0, "seed": 0, "ignore_eos": True, "n": n, "stream": True}
    found: dict[int, float] = {}
    began = time.perf_counter()
    with httpx.stream("POST", f"{split.url}/v1/completions", json=body, timeout=600) as reply:
        reply.raise_for_status()
        for line in reply.iter_lines():
            if line.startswith("data: {"):
                [choice] = json.loads(line.removeprefix("data: "))["choices"]
                found.setdefault(choice["index"], time.perf_counter() - began)
    return list(found.values())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.several_answers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--prompt", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--output", type=int, default=4)
    given = parser.parse_args()
    prompts = Prompts(0, 30000)
    with split_model(make_weights()[1], 2, layers=LAYERS) as split:
        for length in given.prompt:
            first_tokens(split, prompts.one(length), ANSWERS, given.output)
            found: dict[int, list[list[float]]] = {1: [], ANSWERS: []}
            for number in range(given.rounds):
                for n in sorted(found, reverse=bool(number % 2)):
                    found[n].append(first_tokens(split, prompts.one(length), n, given.output))
            one = median(times[0] for times in found[1])
            first = median(min(times) for times in found[ANSWERS])
            last = median(max(times) for times in found[ANSWERS])
            print(
                f"prompt of {length}: first token {1000 * one:.0f} ms alone; of {ANSWERS} answers the first "
                f"{1000 * first:.0f} ms ({first / one:.2f}), the last {1000 * last:.0f} ms ({last / one:.2f})"
            )


if __name__ == "__main__":
    main()
