"""What a second stage costs: the same trunk in one worker and in a chain of two, for one session, asked in turns.

Then where the time goes, from the workers' metrics.
"""

import argparse
import subprocess
from collections.abc import Sequence
from statistics import median

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.benchmarks.contenders import LAYERS, Ports, make_weights, running, split_model
from tests.benchmarks.users import Prompts

MIDDLE = 12


class Frames:
    """The mean of a worker's histogram since the start, in milliseconds a frame."""

    def __init__(self, metrics: Sequence[str]) -> None:
        self._metrics = metrics
        self._before = self._sums()

    def _sums(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for url in self._metrics:
            for family in text_string_to_metric_families(httpx.get(url).text):
                for sample in family.samples:
                    if sample.name.endswith(("_seconds_sum", "_seconds_count")):
                        found[sample.name] = found.get(sample.name, 0.0) + sample.value
        return found

    def mean(self, name: str) -> float:
        """Of all workers together for each frame of the client."""
        now, name = self._sums(), f"splitlearn_trunk_{name}_seconds"
        seconds = now[f"{name}_sum"] - self._before.get(f"{name}_sum", 0.0)
        count = now[f"{name}_count"] - self._before.get(f"{name}_count", 0.0)
        return 1000 * seconds * len(self._metrics) / count


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.chain", description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=64)
    given = parser.parse_args()
    weights = make_weights()[1]
    begin, end = LAYERS.split("-")
    last = Ports()
    listening = ("--port", str(last.trunk_port), "--metrics-port", str(last.metrics_port))
    second = ("trunk", str(weights), "--layers", f"{MIDDLE}-{end}", *listening)
    following = ("--next", last.trunk)
    prompts = Prompts(0, 30000)
    with (
        running("-m", "splitlearn_cli", *second, "--threads", "1", stderr=subprocess.DEVNULL),
        split_model(weights, 1) as one,
        split_model(weights, 1, layers=f"{begin}-{MIDDLE}", trunk_flags=following) as two,
    ):
        sides = {"one worker": one, "two stages": two}
        found: dict[str, list[float]] = {name: [] for name in sides}
        first, behind = two.ports.trunk_metrics, last.trunk_metrics
        frames = {"one worker": Frames([one.ports.trunk_metrics]), "two stages": Frames([first, behind])}
        hops = Frames([first])
        for round_ in range(given.rounds + 1):
            # who is asked first changes
            for name in sorted(sides, reverse=bool(round_ % 2)):
                prompt = prompts.one(8)
                # the prompt, and what a request costs whatever its length
                short, long = sides[name].generate(prompt, 1), sides[name].generate(prompts.one(8), 1 + given.tokens)
                # the first round warms up
                if round_:
                    found[name].append(1000 * (long - short) / given.tokens)
        for name, each in frames.items():
            computed, queued = each.mean("frame_compute_time"), each.mean("frame_queue_time")
            print(f"{name}: of each frame {computed:.2f} ms on the devices, {queued:.2f} ms waiting for them")
        print(f"from stage to stage and back, beside that: {hops.mean('next_round_trip'):.2f} ms")
    for name, each in found.items():
        print(f"{name}: {median(each):.2f} ms per token, rounds {min(each):.2f} to {max(each):.2f}")
    differences = [two - one for one, two in zip(found["one worker"], found["two stages"], strict=True)]
    print(f"a second stage costs {median(differences):.2f} ms per token (median of {len(differences)} rounds)")


if __name__ == "__main__":
    main()
