"""`python -m tests.benchmarks.acceptance`: tokens a second by the share of guesses that are right.

A model of random weights, in bf16, whose trunk is far away. The drafter knows the answer, and every guess is another
token with the probability that is to be measured; how many guesses are sent is decided as ever. The client runs in this
process, once for each share; the sides take turns.
"""

import argparse
import asyncio
import logging
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import structlog

from support.far_link import Network, far_away
from support.informed import Informed
from support.running_split import RunningClient, free_port, running_client, until
from tests.benchmarks.contenders import QWEN, SHAPES, ModelShape, make_weights, running
from tests.benchmarks.users import Prompts

_MOST_GUESSES = 7
# seconds, in which the trunk reads and checks its layers
_PATIENCE = 600


@dataclass
class Side:
    """A client whose drafter is right with this share; None for one that does not guess."""

    share: float | None
    client: RunningClient
    texts: list[list[int]]
    rates: list[float] = field(default_factory=list)
    tokens: list[list[int]] = field(default_factory=list)
    guesses: int = 0
    right: int = 0
    n_tokens: int = 0

    async def ask(self, prompt: Sequence[int], n: int, *, counts: bool) -> list[int]:
        fields = {"prompt": prompt, "max_tokens": n, "return_token_ids": True, "ignore_eos": True}
        reply = (await self.client.complete(**fields)).raise_for_status().json()
        ids, told = reply["choices"][0]["token_ids"], reply["splitlearn"]
        if counts:
            self.rates.append(told["tokens_per_second"])
            self.tokens.append(ids)
            self.guesses += told["draft_tokens"]
            self.right += told["accepted_draft_tokens"]
            self.n_tokens += len(ids) - 1
        return list(ids)


@asynccontextmanager
async def side(weights: Path, shape: ModelShape, trunk: str, threads: int, share: float | None) -> AsyncIterator[Side]:
    texts: list[list[int]] = []
    drafter = Informed(texts, share or 0.0, shape.vocabulary, (_MOST_GUESSES, _MOST_GUESSES), random.Random(1))
    settings: dict[str, Any] = {"threads": threads, "layers": shape.layers, "kv_cache_memory_bytes": 2**27}
    settings["speculative_method"] = "none" if share is None else "ngram"
    # bound when the service is built
    with patch("splitlearn_client.app.PromptLookup", lambda _most_rows: drafter):
        async with running_client(weights, trunk, **settings) as client:
            await until(lambda: client.is_ready, within=_PATIENCE)
            yield Side(share, client, texts)


async def measured(weights: Path, shape: ModelShape, trunk: str, given: argparse.Namespace) -> list[Side]:
    prompts = Prompts(0, shape.vocabulary)
    async with AsyncExitStack() as stack:
        sides = [
            await stack.enter_async_context(side(weights, shape, trunk, given.threads, share))
            for share in (None, *given.shares)
        ]
        for number in range(given.rounds + 1):
            prompt = prompts.one(given.prompt)
            # the first side makes no guesses, and says what is right
            answer = await sides[0].ask(prompt, given.output, counts=number > 0)
            for each in sides[1:] if number % 2 else reversed(sides[1:]):
                each.texts.append([*prompt, *answer])
                await each.ask(prompt, given.output, counts=number > 0)
    return sides


def report(sides: Sequence[Side]) -> str:
    head = ("guesses that are right", "tokens/s", "ratio", "tokens a trip", "guesses a trip", "the same")
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for each in sides:
        ratio = median(one / other for one, other in zip(each.rates, sides[0].rates, strict=True))
        trips = each.n_tokens - each.right
        share = "none are made" if each.share is None else f"{each.share:g}"
        same = "yes" if each.tokens == sides[0].tokens else "NO"
        rate = median(each.rates)
        per_trip = f"{each.n_tokens / trips:.2f} | {each.guesses / trips:.2f}"
        lines.append(f"| {share} | {rate:.2f} | {ratio:.2f} | {per_trip} | {same} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.acceptance", description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default=QWEN.name)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.0, 0.3, 0.6, 0.9])
    parser.add_argument("--round-trip", type=float, default=80.0, help="milliseconds")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--output", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    shape = SHAPES[given.shape]
    weights, port = make_weights(shape)[1], free_port()
    words = ("trunk", str(weights), "--layers", shape.layers, "--port", str(port), "--metrics-port", "0")
    threads = ("--threads", str(given.threads))
    with (
        running("-m", "splitlearn_cli", "--log-level", "error", *words, *threads),
        far_away(port, Network(given.round_trip / 1000)) as trunk,
    ):
        print(report(asyncio.run(measured(weights, shape, trunk, given))))


if __name__ == "__main__":
    main()
