"""`make bench`, fourth part: a trunk ready to run, from sepweight files and from the checkpoint they were made of.

The checkpoint's way is what one does without this project: `from_pretrained` of the whole model, then cut (here with
`Qwen2TrunkModel.from_pretrained_split`). Both run in processes of their own, in turns, files in the page cache.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from tests.benchmarks.contenders import LAYERS, RESULTS, ROOT, make_weights

ROUNDS = 5
LOADS_PER_ROUND = 5
START, STOP = (int(n) for n in LAYERS.split("-"))


def from_checkpoint(path: str) -> object:
    import torch
    from transformers import AutoModelForCausalLM

    from splitlearn.split_models import Qwen2TrunkModel

    whole = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16)
    return Qwen2TrunkModel.from_pretrained_split(whole.state_dict(), whole.config, start_layer=START, end_layer=STOP)


def from_sepweight(path: str) -> object:
    from splitlearn.checkpoints.load import load_part

    return load_part(path, LAYERS)


WAYS: dict[str, Callable[[str], object]] = {"checkpoint": from_checkpoint, "sepweight": from_sepweight}


def one_process(way: str, path: str) -> None:
    """Prints the median seconds of a load, and how much the greatest resident size grew once every weight was read."""
    import torch

    load = WAYS[way]
    # the first load imports the model's code; a small one would import as much
    times = []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(1 + LOADS_PER_ROUND):
        began = time.perf_counter()
        part = load(path)
        times.append(time.perf_counter() - began)
        if len(times) == 1:
            # imports are not the part's: count from after them, with nothing held
            del part
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    parameters = list(part.parameters()) if isinstance(part, torch.nn.Module) else []
    for parameter in parameters:
        parameter.sum()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    held = sum(parameter.nbytes for parameter in parameters)
    print(json.dumps({"seconds": statistics.median(times[1:]), "grown": grown * 1024, "held": held}))


def measure(way: str, path: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.loading", way, str(path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    found: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    return found


def bytes_on_disk(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def main() -> None:
    checkpoint, weights = make_weights()
    rounds = [(measure("checkpoint", checkpoint), measure("sepweight", weights)) for _ in range(ROUNDS)]
    ratios = [theirs["seconds"] / ours["seconds"] for theirs, ours in rounds]
    ms = [1000 * statistics.median(side[i]["seconds"] for side in rounds) for i in range(2)]
    ours = rounds[-1][1]
    disk = bytes_on_disk(weights) / bytes_on_disk(checkpoint)
    text = (
        f"# Loading, {datetime.now(UTC):%Y-%m-%d}\n\n"
        f"`make bench`: layers {LAYERS} of the Qwen2-0.5B shape, bf16, {os.cpu_count()} cores, files in the page "
        f"cache, {ROUNDS} rounds in turns of {LOADS_PER_ROUND} loads each; medians.\n\n"
        f"- `from_pretrained` and cut {ms[0]:.0f} ms, from sepweight {ms[1]:.0f} ms: "
        f"**{statistics.median(ratios):.1f} times** as fast (goal: 3; "
        f"rounds {', '.join(f'{ratio:.1f}' for ratio in ratios)}).\n"
        f"- Greatest resident size with every weight read: {ours['grown'] / ours['held']:.3f} of the part's "
        f"{ours['held'] / 1e6:.0f} MB (goal: 1.15), the process before it not counted.\n"
        f"- The sepweight directory has {disk:.4f} of the checkpoint's bytes (goal: at most 1.01).\n"
    )
    print(text)
    (RESULTS / f"loading_{datetime.now(UTC):%Y-%m-%d}.md").write_text(text)


if __name__ == "__main__":
    one_process(*sys.argv[1:]) if len(sys.argv) > 1 else main()
