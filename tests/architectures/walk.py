"""Walks all causal language models of transformers: each is examined in a process of its own.

    PYTHONPATH=tests python -m architectures.walk [--write | --json FILE] [MODEL_TYPE ...]

Without --write it compares what it found with result.json, and exits 1 where they differ. Another version of
transformers than that of result.json may have other types, and refuse, batch or take back otherwise: there only a type
that neither comes out equal nor is refused, or is refused while result.json has it equal, makes it exit with 1.
"""

import argparse
import json
import logging
import os
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from architectures.examination import Outcome, examine
from architectures.table import RESULT, TABLE, render

TIMEOUT = 90
ALL = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def walk(model_types: list[str], jobs: int) -> dict[str, Outcome]:
    """What became of each; processes that die or compute longer than `TIMEOUT` seconds count as differing."""
    waiting, running, found = list(model_types), {}, {}
    while waiting or running:
        while waiting and len(running) < jobs:
            model_type = waiting.pop(0)
            process, pipe = _start(model_type)
            running[process] = (model_type, pipe, time.perf_counter())
        process, status = os.wait()
        model_type, pipe, began = running.pop(process)
        with os.fdopen(pipe) as told:
            text = told.read()
        values = json.loads(text) if text else {"verdict": "differs", "reason": f"the process ended with {status}"}
        found[model_type] = Outcome(**{**values, "traits": tuple(values.get("traits", ()))})
        print(
            f"{time.perf_counter() - began:5.1f} s  {model_type:24s} {found[model_type].verdict}  "
            f"{found[model_type].reason}",
            flush=True,
        )
    return {model_type: found[model_type] for model_type in sorted(found)}


def _start(model_type: str) -> tuple[int, int]:
    ours, theirs = os.pipe()
    process = os.fork()
    if process:
        os.close(theirs)
        return process, ours
    try:
        with os.fdopen(theirs, "w") as tell:
            json.dump(asdict(_examine_alone(model_type)), tell)
    finally:
        os._exit(0)


def _examine_alone(model_type: str) -> Outcome:
    for occasion in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(occasion, _too_long)
    # of this process's own time, which on a busy machine passes more slowly; and at most ten times as much altogether
    signal.setitimer(signal.ITIMER_PROF, TIMEOUT)
    signal.alarm(10 * TIMEOUT)
    with tempfile.TemporaryDirectory() as folder:
        try:
            return examine(model_type, Path(folder))
        except Exception as error:  # noqa: BLE001 (one architecture's failure is this walk's result)
            last = traceback.extract_tb(error.__traceback__)[-1]
            return Outcome("differs", f"{type(error).__name__} in {Path(last.filename).name}:{last.lineno}: {error}")


def _too_long(_: int, __: FrameType | None) -> None:
    raise TimeoutError(f"not done after {TIMEOUT} s of its own")


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("model_types", nargs="*", metavar="MODEL_TYPE")
    arguments.add_argument("--write", action="store_true", help="write result.json and docs/architectures.md")
    arguments.add_argument("--json", type=Path, metavar="FILE", help="write there what was found, and what differs")
    arguments.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    given = arguments.parse_args()
    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    found = walk(given.model_types or ALL, given.jobs)
    print(dict(Counter(outcome.verdict for outcome in found.values())))
    types = json.loads(json.dumps({model_type: asdict(outcome) for model_type, outcome in found.items()}))
    result = {"transformers": transformers.__version__, "types": types}
    if given.write:
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
        TABLE.write_text(render())
        return 0
    known = json.loads(RESULT.read_text())
    if given.model_types:
        known["types"] = {name: known["types"][name] for name in given.model_types if name in known["types"]}
    told = compare(known, result)
    print(json.dumps(told, indent=1))
    if given.json is not None:
        given.json.write_text(json.dumps({**told, **result}, indent=1) + "\n")
    return 1 if told["wrong"] else 0


def compare(known: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """What two walks found: types that the second has not, or has beside the first, that came out otherwise, and those
    of which that is wrong."""
    before, after = known["types"], found["types"]
    lacks, adds = sorted(before.keys() - after.keys()), sorted(after.keys() - before.keys())
    changed = {name: after[name] for name in sorted(before.keys() & after.keys()) if before[name] != after[name]}
    if known["transformers"] == found["transformers"]:
        wrong = sorted({*lacks, *adds, *changed})
    else:
        was_equal = {name for name, outcome in before.items() if outcome["verdict"] == "equal"}
        fine = {name for name, outcome in after.items() if outcome["verdict"] in ("equal", "refused")}
        now_refused = {name for name, outcome in changed.items() if outcome["verdict"] == "refused"}
        wrong = sorted((after.keys() - fine) | (was_equal & now_refused))
    return {"wrong": wrong, "lacks": lacks, "adds": adds, "changed": changed}


if __name__ == "__main__":
    sys.exit(main())
