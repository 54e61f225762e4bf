"""Which admitted sessions give way to one that waits: those that have had nothing to do for long. Plain values.

Whoever has more gives way to whoever has less, and never the other way round: otherwise one with many busy sessions
would take the place of another's only one while its user thinks. Among sessions of one owner the place goes to the one
that waits.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from splitlearn.engine.owners import Owner, branches, by_branch, has_more

AWAY_SECONDS = 2.0
"""A session without rows for this long may wait in another engine, or its user reads slowly; an older one that waits
may take its place."""
LONG_AWAY_SECONDS = 5.0
"""For so long no client works on the next row. Any session that waits may take the place.

More than twice as long as `AWAY_SECONDS`: where two sessions hold what the other one waits for in another engine, the
older one has its place before the younger one could take the older one's, and so they do not go on for ever taking each
other's."""


class Admitted(NamedTuple):
    """An admitted session: whose it is, how much it takes of what is short, and for how long it has had no rows."""

    owner: Owner
    use: int
    idle_seconds: float


def giving_way(owner: Owner, admitted: Mapping[int, Admitted]) -> Iterator[int]:
    """The sessions that make way for one of the owner, one after the other, as long as there are any.

    At each level it is one of the branch that uses most, of those that have an idle one; of one owner, the one that has
    been idle for longest.
    """
    use = by_branch((each.owner, each.use) for each in admitted.values())
    lines: dict[Owner, list[int]] = {}
    for number in sorted(admitted, key=lambda each: admitted[each].idle_seconds):
        if admitted[number].idle_seconds >= LONG_AWAY_SECONDS:
            lines.setdefault(admitted[number].owner, []).append(number)
    while eligible := [each for each in lines if has_more(use, each, owner)]:
        most = max(eligible, key=lambda each: [use[branch] for branch in branches(each)])
        victim = lines[most].pop()
        if not lines[most]:
            del lines[most]
        for branch in branches(most):
            use[branch] -= admitted[victim].use
        yield victim
