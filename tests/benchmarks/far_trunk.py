"""One user whose trunk is far away, without guesses: tokens a second, and the time to a long prompt's first token.

The latter is compared with the time that the link itself takes for the prompt's rows, as they were sent. The relay is
on this machine, and so are client and trunk. The first prompt shows the client what the link takes, and is not counted.
"""

import argparse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from statistics import median

from support.far_link import Network, far_away
from tests.benchmarks.contenders import LAYERS, Ports, Split, make_weights, running, wait_until_ready
from tests.benchmarks.users import Prompts


@contextmanager
def far_split(network: Network, codec: str, threads: int) -> Iterator[Split]:
    """Client and trunk with the network between them."""
    _, weights = make_weights()
    ports, common = Ports(), ("--threads", str(threads))
    listening = ("--port", str(ports.trunk_port), "--metrics-port", str(ports.metrics_port))
    trunk = ("trunk", str(weights), "--layers", LAYERS, *listening, *common)
    with ExitStack() as stack:
        below = stack.enter_context(running("-m", "splitlearn_cli", "--log-level", "error", *trunk))
        address = stack.enter_context(far_away(ports.trunk_port, network))
        port = str(ports.client_port)
        client = ("client", str(weights), "--trunk", address, "--port", port, "--wire-codec", codec, *common)
        above = stack.enter_context(running("-m", "splitlearn_cli", "--log-level", "error", *client))
        wait_until_ready(ports.client, below, above)
        yield Split(ports)


def print_tokens(split: Split, n: int, rounds: int) -> None:
    prompts, found = Prompts(0, 256), []
    split.generate(prompts.one(32), 4)
    for _ in range(rounds):
        split.generate(prompts.one(32), n)
        found.append(split.last)
    rates = [float(each["tokens_per_second"]) for each in found]
    parts = {name: 1000 * median(each["seconds"][name] for each in found) / n for name in found[0]["seconds"]}
    told = ", ".join(f"{name} {milliseconds:.1f}" for name, milliseconds in parts.items())
    print(
        f"{median(rates):.2f} tokens/s ({', '.join(f'{rate:.2f}' for rate in rates)}); ms a token: {told}", flush=True
    )


def print_prompts(split: Split, length: int, bytes_a_second: float, rounds: int) -> None:
    prompts, ratios = Prompts(1, 256), []
    for number in range(rounds + 1):
        split.generate(prompts.one(length), 2)
        seconds, sent = float(split.last["time_to_first_token_seconds"]), int(split.last["wire_bytes_sent"])
        link = sent / bytes_a_second
        ratios.append(seconds / link)
        trunk = split.last["seconds"]["trunk"]
        print(
            f"{'not counted: ' if not number else ''}first token after {seconds:.2f} s, {sent / 1e6:.2f} MB sent, for "
            f"which the link takes {link:.2f} s; trunk {trunk:.2f} s",
            flush=True,
        )
    print(f"{median(ratios[1:]):.2f} of the link's time", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.far_trunk", description=__doc__)
    parser.add_argument("--round-trip", type=float, default=80, help="milliseconds")
    parser.add_argument("--output", type=int, default=32)
    parser.add_argument("--prompt", type=int, default=2000)
    parser.add_argument("--megabits", type=float, default=4, help="of the link, up, for the prompts")
    parser.add_argument("--megabits-down", type=float, default=20)
    parser.add_argument("--codec", default="int8", help="of the prompts' rows")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=4)
    given = parser.parse_args()
    round_trip = given.round_trip / 1000
    print(f"{given.round_trip:g} ms, 20 Mbit/s up and down")
    with far_split(Network(round_trip, up=2.5e6, down=2.5e6), "none", given.threads) as split:
        print_tokens(split, given.output, given.rounds)
    up, down = (megabits * 125_000 for megabits in (given.megabits, given.megabits_down))
    print(f"{given.round_trip:g} ms, {given.megabits:g} Mbit/s up and {given.megabits_down:g} down, {given.codec}")
    with far_split(Network(round_trip, up=up, down=down), given.codec, given.threads) as split:
        print_prompts(split, given.prompt, up, given.rounds)


if __name__ == "__main__":
    main()
