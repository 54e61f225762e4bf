"""What is kept of closed sessions, so that a later one that begins alike need not compute it again. No tensors.

Whoever opens sessions names the blocks that they begin with. A name stands for its block and all before it, so two
sessions whose n-th names are equal begin with the same n blocks. What a name is made of is not known here, and nobody
is trusted to have made them well: what is found always has as many blocks, under just these names, as is said.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class KeptPrefixes:
    """Which kept prefix has which blocks, the least recently used first.

    Attributes:
        most: prefixes kept at a time.
    """

    most: int
    _names: dict[int, tuple[bytes, ...]] = field(default_factory=dict)
    _owner: dict[bytes, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._names)

    def find(self, names: Sequence[bytes]) -> tuple[int, int] | None:
        """The kept prefix that shares most blocks with `names`, and how many; None if none shares any."""
        found = self._match(names)
        if found is not None:
            self._touch(found[0])
        return found

    def keep(self, owner: int, names: Sequence[bytes]) -> list[int]:
        """Keeps `owner`, which has the blocks `names`, at least one.

        Returns:
            Those that need not be kept any more: what the new one continues, and the least recently used beyond `most`.
        """
        others = {self._owner[name] for name in names if name in self._owner}
        dropped = [other for other in others if _n_shared(self._names[other], names) == len(self._names[other])]
        for other in dropped:
            self.drop(other)
        self._names[owner] = tuple(names)
        self._owner.update(dict.fromkeys(names, owner))
        while len(self._names) > self.most:
            dropped.append(self.oldest())
            self.drop(dropped[-1])
        return dropped

    def has(self, names: Sequence[bytes]) -> bool:
        """Whether all of these blocks are kept already."""
        found = self._match(names)
        return found is not None and found[1] == len(names)

    def _match(self, names: Sequence[bytes]) -> tuple[int, int] | None:
        owner = next((self._owner[name] for name in reversed(names) if name in self._owner), None)
        n_shared = 0 if owner is None else _n_shared(self._names[owner], names)
        return (owner, n_shared) if owner is not None and n_shared else None

    def oldest(self) -> int:
        """The least recently used."""
        return next(iter(self._names))

    def drop(self, owner: int) -> None:
        for name in self._names.pop(owner):
            if self._owner.get(name) == owner:
                del self._owner[name]

    def _touch(self, owner: int) -> None:
        self._names[owner] = self._names.pop(owner)


def _n_shared(some: Sequence[bytes], others: Sequence[bytes]) -> int:
    """How many blocks two beginnings have in common."""
    pairs = enumerate(zip(some, others, strict=False))
    return next((i for i, (one, other) in pairs if one != other), min(len(some), len(others)))
