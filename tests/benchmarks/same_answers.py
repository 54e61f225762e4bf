"""`python -m tests.benchmarks.same_answers`: whether answers are the same with guesses and without.

A client that guesses and one that does not, each with a trunk of its own, get the same random requests of all kinds,
many at once. The trunks are far away, and connections break by the seed. Whatever an answer says is compared. Each
difference is printed with its request, as JSON; then, or if a request failed, the exit code is 1.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path

import httpx

from support.both_sides import Found, compare
from support.far_link import Network, far_away
from support.random_requests import random_request
from support.request_material import material_of
from support.running_split import free_port
from tests.benchmarks.contenders import ROOT, running, wait_until_ready

_NAME = "model"
_TIMEOUT = 600
_TOLD_EVERY = 500
_COMMON = ("--log-level", "error")
# others may wait for as long as it takes, and nobody is refused
_PATIENT = ("--threads", "1", "--queue-timeout", str(_TIMEOUT))


@contextmanager
def side(given: argparse.Namespace, number: int, *flags: str) -> Iterator[str]:
    """The address of a client with these flags, whose trunk is far away. Each side has breaks of its own.

    Behind a link that breaks there is one that does not, or nobody could take a request while all are broken.
    """
    round_trip = given.round_trip / 1000
    whole = Network(round_trip, jitter=round_trip / 4, seed=f"{given.seed} {number}")
    networks = (replace(whole, breaks_after=given.breaks_after), whole)
    model, trunk_port, client_port = str(given.model), free_port(), free_port()
    trunk = ("trunk", model, "--layers", given.layers, "--port", str(trunk_port), "--metrics-port", "0")
    module = "tests.support.every_guess" if given.every_guess else "splitlearn_cli"
    url = f"http://127.0.0.1:{client_port}"
    with ExitStack() as stack:
        below = stack.enter_context(running("-m", "splitlearn_cli", *_COMMON, *trunk, *_PATIENT))
        links = [stack.enter_context(far_away(trunk_port, network)) for network in networks]
        words = ("client", model, "--trunk", ",".join(links), "--layers", given.layers, "--port", str(client_port))
        named = ("--served-model-name", _NAME)
        above = stack.enter_context(running("-m", module, *_COMMON, *words, *named, *_PATIENT, *flags))
        wait_until_ready(url, below, above, within=_TIMEOUT)
        yield url


def reporter() -> Callable[[Found], None]:
    """Prints each problem once, and now and then how far it is."""
    n_told, began = 0, time.perf_counter()

    def tell(found: Found) -> None:
        nonlocal n_told
        for problem in found.problems[n_told:]:
            print(json.dumps(problem), flush=True)
        n_told = len(found.problems)
        if found.n_requests % _TOLD_EVERY == 0:
            print(f"{found.n_requests} requests, {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)

    return tell


def report(found: Found, seconds: float) -> str:
    told = found.told
    kinds = ", ".join(f"{kind} {n}" for kind, n in sorted(found.kinds.items()))
    return (
        f"{found.n_requests} requests in {seconds:.0f} s: {found.n_same} answers the same, {found.n_different} "
        f"different, {found.n_refused} refused alike, {found.n_failed} failed\n"
        f"with guesses: {told['completion_tokens']} tokens, {told['draft_tokens']} guesses ran, "
        f"{told['accepted_draft_tokens']} of them right, {told['failovers']} failovers\n{kinds}"
    )


async def compared(given: argparse.Namespace, plain: str, guessing: str) -> Found:
    material = material_of(given.model, _NAME)
    drawn = (random_request(given.seed, number, material) for number in count())
    limits = httpx.Limits(max_connections=None)
    async with (
        httpx.AsyncClient(base_url=plain, timeout=_TIMEOUT, limits=limits) as one,
        httpx.AsyncClient(base_url=guessing, timeout=_TIMEOUT, limits=limits) as other,
    ):
        return await compare(one, other, drawn, given.concurrency, given.requests, reporter())


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.same_answers", description=__doc__)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0, help="of the requests, of jitter and of breaks")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--round-trip", type=float, default=5.0, help="milliseconds")
    parser.add_argument("--breaks-after", type=float, default=20.0, help="seconds that a connection lasts on average")
    parser.add_argument("--model", type=Path, default=ROOT / "deploy" / "demo_model")
    parser.add_argument("--layers", default="1-5")
    parser.add_argument("--speculative-method", default="ngram")
    parser.add_argument("--speculative-model", type=Path)
    parser.add_argument("--as-many-as-pay", dest="every_guess", action="store_false", help="not every guess runs")
    given = parser.parse_args()
    guessing = ["--speculative-method", given.speculative_method]
    if given.speculative_model is not None:
        guessing += ["--speculative-model", str(given.speculative_model)]
    with side(given, 0) as plain, side(given, 1, *guessing) as other:
        began = time.perf_counter()
        found = asyncio.run(compared(given, plain, other))
        print(report(found, time.perf_counter() - began))
    return 1 if found.problems else 0


if __name__ == "__main__":
    sys.exit(main())
