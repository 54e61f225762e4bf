"""The results: one line of JSON per round, and the figures of all rounds together."""

import json
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from faults.machine import SECOND_STAGE, Round
from faults.schedule import KILLS


def read(path: Path) -> list[dict[str, Any]]:
    """The rounds of a file; none if there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def append(path: Path, found: Round) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(asdict(found) | {"commit": _commit()}) + "\n")


def summary(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What is reported."""
    faults: Counter[str] = Counter()
    for each in rounds:
        faults.update(each["faults"])
    failovers = [failover for each in rounds for failover in each["failovers"]]
    return {
        "faults": sum(faults.values()),
        "by kind": dict(sorted(faults.items())),
        "kills": _kills(faults),
        "requests": sum(each["requests"] for each in rounds),
        "tokens": sum(each["tokens"] for each in rounds),
        "failed requests": sum(len(each["failed"]) for each in rounds),
        "requests with lost or other tokens": sum(len(each["wrong"]) for each in rounds),
        "failovers": len(failovers),
        "failovers by reason": dict(sorted(Counter(failover["reason"] for failover in failovers).items())),
        "detection seconds": percentiles([failover["detection_seconds"] for failover in failovers]),
        "resumption seconds": percentiles([failover["resumption_seconds"] for failover in failovers]),
        "first session after a worker serves again, seconds": percentiles(
            [seconds for each in rounds for seconds in each["back_seconds"]]
        ),
        "faults whose moment did not come": sum(each["missed"] for each in rounds),
        "minutes": round(sum(each["seconds"] for each in rounds) / 60, 1),
    }


def _kills(faults: Mapping[str, int]) -> dict[str, int]:
    """By moment, in all stages, and those in a chain's second stage, which are in the others too."""
    kills = {name: count for name, count in faults.items() if name.startswith(KILLS)}
    by_moment = {str(kind): sum(count for name, count in kills.items() if name.startswith(kind)) for kind in KILLS}
    return by_moment | {SECOND_STAGE: sum(count for name, count in kills.items() if name.endswith(SECOND_STAGE))}


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p99 and the greatest."""
    ordered = sorted(values)
    if not ordered:
        return {}
    return {
        "p50": round(ordered[len(ordered) // 2], 3),
        "p99": round(ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))], 3),
        "max": round(ordered[-1], 3),
    }


def _commit() -> str:
    return subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
