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


# of ten faults of this many kinds; the kills come in the three moments that differ
_SHARES: Final = {
    Kind.KILL_IN_DECODE: 4,
    Kind.KILL_IN_PREFILL: 2,
    Kind.KILL_IN_REPLAY: 2,
    Kind.RESTART: 2,
    Kind.FREEZE: 2,
    Kind.CUT: 2,
    Kind.DROP: 2,
    Kind.DELAY: 1,
    Kind.NAN: 1,
    Kind.WRONG_ROWS: 1,
    Kind.ERROR: 1,
}


@dataclass(frozen=True)
class Fault:
    """One fault. `dice` (0 to 1) chooses the replica among those that qualify, `seconds` is how long it lasts."""

    number: int
    kind: Kind
    dice: float
    seconds: float


def schedule(seed: int, n_faults: int) -> tuple[Fault, ...]:
    """Faults in random order, each kind by its share, to within one."""
    random = Random(seed)
    shares = [kind for kind, share in _SHARES.items() for _ in range(share)]
    whole, rest = divmod(n_faults, len(shares))
    kinds = shares * whole + random.sample(shares, rest)
    random.shuffle(kinds)
    return tuple(
        Fault(number, kind, random.random(), round(random.uniform(0.1, 1.0), 3)) for number, kind in enumerate(kinds)
    )


def counted(faults: Sequence[Fault]) -> Counter[Kind]:
    """How many there are of each kind."""
    return Counter(fault.kind for fault in faults)
