"""Whose sessions they are: the names of a client, of its tenant and so on, from the outermost inwards. Plain values.

Whoever claims many names claims them inside its own, and gets no more turns by that. A *branch* is an owner, or the
beginning of one: all whose names begin with it.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

Owner = tuple[str, ...]
"""All owners of one engine have as many names, so that no branch of one is an owner itself."""


def branches(owner: Owner) -> Iterator[Owner]:
    """The branches that the owner is in, from the outermost inwards; the last one is the owner."""
    return (owner[:depth] for depth in range(1, len(owner) + 1))


def by_branch(amounts: Iterable[tuple[Owner, int]]) -> Counter[Owner]:
    """The sum of the amounts of each branch."""
    sums: Counter[Owner] = Counter()
    for owner, amount in amounts:
        for branch in branches(owner):
            sums[branch] += amount
    return sums


def has_more(use: Mapping[Owner, int], owner: Owner, than: Owner) -> bool:
    """Whether the owner's branch uses more than the other's, where the two part. True if they are the same owner.

    Args:
        use: of each branch.
    """
    for branch, other in zip(branches(owner), branches(than), strict=False):
        if branch != other:
            return use.get(branch, 0) > use.get(other, 0)
    return True
