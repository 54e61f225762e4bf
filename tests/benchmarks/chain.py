"""What a second stage costs: the same trunk in one worker and in a chain of two, for one session, asked in turns."""

import argparse
import subprocess
from statistics import median

from tests.benchmarks.contenders import LAYERS, OTHER_PORTS, make_weights, running, split_model
from tests.benchmarks.users import Prompts

MIDDLE = 12
SECOND_STAGE = 50967


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.chain", description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=64)
    given = parser.parse_args()
    weights = make_weights()[1]
    begin, end = LAYERS.split("-")
    second = ("trunk", str(weights), "--layers", f"{MIDDLE}-{end}", "--port", str(SECOND_STAGE), "--metrics-port", "0")
    following = ("--next", f"127.0.0.1:{SECOND_STAGE}")
    prompts = Prompts(0, 30000)
    with (
        running("-m", "splitlearn_cli", *second, "--threads", "1", stderr=subprocess.DEVNULL),
        split_model(weights, 1) as one,
        split_model(weights, 1, layers=f"{begin}-{MIDDLE}", ports=OTHER_PORTS, trunk_flags=following) as two,
    ):
        sides = {"one worker": one, "two stages": two}
        found: dict[str, list[float]] = {name: [] for name in sides}
        for round_ in range(given.rounds + 1):
            # who is asked first changes
            for name in sorted(sides, reverse=bool(round_ % 2)):
                prompt = prompts.one(8)
                # the prompt, and what a request costs whatever its length
                short, long = sides[name].generate(prompt, 1), sides[name].generate(prompts.one(8), 1 + given.tokens)
                # the first round warms up
                if round_:
                    found[name].append(1000 * (long - short) / given.tokens)
    for name, each in found.items():
        print(f"{name}: {median(each):.2f} ms per token, rounds {min(each):.2f} to {max(each):.2f}")
    differences = [two - one for one, two in zip(found["one worker"], found["two stages"], strict=True)]
    print(f"a second stage costs {median(differences):.2f} ms per token (median of {len(differences)} rounds)")


if __name__ == "__main__":
    main()
