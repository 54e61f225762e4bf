"""`python -m tests.benchmarks.others_pace`: what guesses cost those who do not guess and share the trunk.

One trunk has two clients. Users of the first ask what they have the answer of, so that nearly all guesses are right;
the client guesses, or in the next turn another one in its place does not. Meanwhile users of the second, which never
guesses, ask one question after the other, and their tokens/s are compared.
"""

import argparse
import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from cleangpt.data.stdlib_questions import Question, collect_questions
from support.far_link import Network, far_away
from support.running_split import free_port
from tests.benchmarks.comparison import Comparison, Goal, comparisons
from tests.benchmarks.contenders import ROOT, running, wait_until_ready
from tests.benchmarks.figures import add_json_option, write_report

_NAME = "model"
_GUESSING, _SILENT, _OTHER = "guessing", "silent", "other"
_METHODS = {_GUESSING: "ngram", _SILENT: "none", _OTHER: "none"}


@dataclass
class Pace:
    """What some users got in one turn.

    Attributes:
        rates: tokens a second, of each answer.
        seconds: of all answers, by station.
    """

    rates: list[float] = field(default_factory=list)
    seconds: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    guesses: int = 0
    right: int = 0

    def add(self, told: dict[str, Any]) -> None:
        if told["completion_tokens"] > 1:
            self.rates.append(told["tokens_per_second"])
        self.seconds.update(told["seconds"])
        self.tokens += told["completion_tokens"]
        self.guesses += told["draft_tokens"]
        self.right += told["accepted_draft_tokens"]


@contextmanager
def scene(given: argparse.Namespace) -> Iterator[dict[str, str]]:
    """The addresses of all clients of one trunk."""
    model, port = str(given.model), free_port()
    common = ("--threads", "1", "--layers", given.layers)
    trunk = ("trunk", model, "--port", str(port), "--metrics-port", "0", *common)
    with ExitStack() as stack:
        stack.enter_context(running("-m", "splitlearn_cli", "--log-level", "error", *trunk))
        link = stack.enter_context(far_away(port, Network(given.round_trip / 1000)))
        urls = {}
        for name, method in _METHODS.items():
            port = free_port()
            words = ("client", model, "--trunk", link, "--port", str(port), "--served-model-name", _NAME, *common)
            flags = ("--speculative-method", method)
            process = stack.enter_context(running("-m", "splitlearn_cli", "--log-level", "error", *words, *flags))
            urls[name] = f"http://127.0.0.1:{port}"
            wait_until_ready(urls[name], process)
        yield urls


async def ask(http: httpx.AsyncClient, url: str, messages: Sequence[dict[str, str]], pace: Pace) -> None:
    body = {"model": _NAME, "messages": messages, "max_tokens": 120, "temperature": 0}
    reply = await http.post(f"{url}/v1/chat/completions", json=body)
    pace.add(reply.raise_for_status().json()["splitlearn"])


def asked_again(question: Question) -> list[dict[str, str]]:
    asked = {"role": "user", "content": question.phrasings[0]}
    return [asked, {"role": "assistant", "content": question.answer}, asked]


@asynccontextmanager
async def repeating(http: httpx.AsyncClient, url: str, known: Sequence[Question], n_users: int) -> AsyncIterator[Pace]:
    """So many users ask again and again what they have the answer of."""
    pace, each_has_one = Pace(), [asyncio.Event() for _ in range(n_users)]

    async def user(number: int) -> None:
        for question in cycle(known[number::n_users]):
            await ask(http, url, asked_again(question), pace)
            each_has_one[number].set()

    users = [asyncio.create_task(user(number)) for number in range(n_users)]
    try:
        for event in each_has_one:
            await event.wait()
        yield pace
    finally:
        for task in users:
            task.cancel()
        await asyncio.gather(*users, return_exceptions=True)


async def turn(urls: dict[str, str], first: str, given: argparse.Namespace, known: Sequence[Question]) -> list[Pace]:
    """What the users of the first client and the others got, while it guesses or does not."""
    others = Pace()
    async with (
        httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_connections=None)) as http,
        repeating(http, urls[first], known, given.guessers) as pace,
    ):

        async def other(number: int) -> None:
            for question in islice(cycle(known[number :: given.others]), given.answers):
                asked = {"role": "user", "content": question.phrasings[0]}
                await ask(http, urls[_OTHER], [asked], others)

        await asyncio.gather(*(other(number) for number in range(given.others)))
    return [pace, others]


def stations(paces: Sequence[Pace]) -> str:
    """Where an answer's time went: milliseconds a token, by station."""
    seconds, tokens = sum((pace.seconds for pace in paces), Counter[str]()), sum(pace.tokens for pace in paces)
    return ", ".join(f"{name} {1000 * seconds[name] / tokens:.2f}" for name in sorted(seconds))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.others_pace", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--answers", type=int, default=12, help="of each of the others, in a turn")
    parser.add_argument("--guessers", type=int, default=4, help="users of the client that guesses")
    parser.add_argument("--others", type=int, default=1, help="users of the client that does not")
    parser.add_argument("--round-trip", type=float, default=0.0, help="milliseconds")
    parser.add_argument("--model", type=Path, default=ROOT / "deploy" / "demo_model")
    parser.add_argument("--layers", default="1-5")
    add_json_option(parser)
    given = parser.parse_args()
    known = collect_questions()[::7]
    found: dict[str, list[list[Pace]]] = {_GUESSING: [], _SILENT: []}
    with scene(given) as urls:
        for number in range(given.rounds + 1):
            for first in sorted(found, reverse=bool(number % 2)):
                paces = asyncio.run(turn(urls, first, given, known))
                # the first round warms up, and teaches what guesses cost
                found[first] += [paces] if number else []
    rows = []
    for who, what in ((1, "those who do not guess"), (0, "those who do")):
        silent, guessing = ([median(paces[who].rates) for paces in found[name]] for name in (_SILENT, _GUESSING))
        goal = Goal(0.95 if who else 1.0)
        rows.append(Comparison(f"{what}, beside guesses against beside none", "tokens/s", silent, guessing, goal))
    print(comparisons(rows))
    for name, turns in found.items():
        first, others = ([paces[who] for paces in turns] for who in (0, 1))
        print(f"first client {name}: ms a token of the others: {stations(others)}; of its own: {stations(first)}")
        trips = sum(pace.tokens - pace.right for pace in first)
        print(f"  guesses a trip: {sum(pace.guesses for pace in first) / trips:.2f}")
    write_report(given.json, [row.figure for row in rows])


if __name__ == "__main__":
    main()
