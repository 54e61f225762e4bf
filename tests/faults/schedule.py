"""Which faults come in which order. Plain values: the same seed gives the same schedule."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Final


class Kind(StrEnum):
    """What happens to one replica of the trunk, or to the network before it."""

    KILL_IN_DECODE = "kill in decode"
    KILL_IN_PREFILL = "kill in prefill"
    KILL_IN_REPLAY = "kill in replay"
    RESTART = "restart"
    FREEZE = "freeze"
    CUT = "cut"
    DROP = "drop"
    DELAY = "delay"
    NAN = "nan"
    WRONG_ROWS = "wrong rows"
    ERROR = "error"


# Of fifty faults. Kills have more than the others, because they come in three moments that differ; all other kinds have
# the same. A thousand faults hold more kills of each moment, and in a chain's second stage, than are asked for
# (docs/reliability.md), so that a moment that does not come leaves enough.
_SHARES: Final = {
    Kind.KILL_IN_DECODE: 12,
    Kind.KILL_IN_PREFILL: 7,
    Kind.KILL_IN_REPLAY: 7,
    Kind.RESTART: 3,
    Kind.FREEZE: 3,
    Kind.CUT: 3,
    Kind.DROP: 3,
    Kind.DELAY: 3,
    Kind.NAN: 3,
    Kind.WRONG_ROWS: 3,
    Kind.ERROR: 3,
}
KILLS: Final = (Kind.KILL_IN_DECODE, Kind.KILL_IN_PREFILL, Kind.KILL_IN_REPLAY)


@dataclass(frozen=True)
class Fault:
    """One fault. `dice` (0 to 1) chooses the replica among those of the stage that qualify, `seconds` is how long it
    lasts."""

    number: int
    kind: Kind
    stage: int
    dice: float
    seconds: float


def schedule(seed: int, n_faults: int, n_stages: int) -> tuple[Fault, ...]:
    """Faults in random order; each kind by its share, and in each stage equally often, to within one."""
    random = Random(seed)
    pool = [(kind, stage) for kind, share in _SHARES.items() for stage in range(n_stages) for _ in range(share)]
    # at equal distances in the pool, where those of a kind, and of them those of a stage, are next to each other
    began, step = random.random(), len(pool) / n_faults
    chosen = [pool[int((began + i) * step)] for i in range(n_faults)]
    random.shuffle(chosen)
    return tuple(
        Fault(number, kind, stage, random.random(), round(random.uniform(0.1, 1.0), 3))
        for number, (kind, stage) in enumerate(chosen)
    )


def counted(faults: Sequence[Fault]) -> Counter[Kind]:
    """How many there are of each kind."""
    return Counter(fault.kind for fault in faults)
