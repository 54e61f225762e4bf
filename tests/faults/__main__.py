"""Runs rounds of faults until there are N; goes on where an earlier run of the same file ended."""

import argparse
import asyncio
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from faults import results
from faults.machine import ROUND_FAULTS, run_rolling_restart, run_round
from support.tiny_models import random_model, save_sepweight, tiny_config


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("-n", type=int, default=ROUND_FAULTS, help="faults in all")
    parser.add_argument("--seed", type=int, default=0, help="of the first round; the others follow")
    parser.add_argument("--out", type=Path, default=Path("build/faults/results.jsonl"))
    parser.add_argument(
        "--rolling", type=float, metavar="SECONDS", help="instead restart 3 replicas in turn under 16 streams"
    )
    given = parser.parse_args()
    if given.rolling:
        return rolling_restart(given.rolling, given.seed)
    done = results.read(given.out)
    with tempfile.TemporaryDirectory() as folder:
        weights = save_sepweight(Path(folder), random_model(tiny_config("llama")))
        while (missing := given.n - sum(sum(each["faults"].values()) for each in done)) > 0:
            seed = given.seed + len(done)
            found = asyncio.run(run_round(weights, seed, min(ROUND_FAULTS, missing)))
            results.append(given.out, found)
            done = results.read(given.out)
            print(
                f"seed {seed}: {sum(found.faults.values())} faults, {found.requests} requests, "
                f"{len(found.failed)} failed, {len(found.wrong)} wrong, {found.seconds:.0f} s",
                flush=True,
            )
    print(json.dumps(results.summary(done), indent=2))
    return 1 if any(each["failed"] or each["wrong"] for each in done) else 0


def rolling_restart(seconds: float, seed: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        weights = save_sepweight(Path(folder), random_model(tiny_config("llama")))
        found = asyncio.run(run_rolling_restart(weights, seed, 3, 16, seconds))
    print(json.dumps(results.summary([asdict(found)]), indent=2))
    return 1 if found.failed or found.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
