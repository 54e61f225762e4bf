"""What is kept of closed sessions, so that a later one that begins alike need not compute it again. No tensors.

Whoever opens sessions names the blocks that they begin with. A name stands for its block and all before it, so two
sessions whose n-th names are equal begin with the same n blocks. What a name is made of is not known here.
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
        for count in range(len(names), 0, -1):
            owner = self._owner.get(names[count - 1])
            if owner is not None:
                self._touch(owner)
                return owner, count
        return None

    def keep(self, owner: int, names: Sequence[bytes]) -> list[int]:
        """Keeps `owner`, which has the blocks `names`, at least one.

        Returns:
            Those that need not be kept any more: what the new one continues, and the least recently used beyond `most`.
        """
        continued = {self._owner[name] for name in names if name in self._owner}
        dropped = [other for other in continued if self._names[other][-1] in names]
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
        return bool(names) and names[-1] in self._owner

    def oldest(self) -> int:
        """The least recently used."""
        return next(iter(self._names))

    def drop(self, owner: int) -> None:
        for name in self._names.pop(owner):
            if self._owner.get(name) == owner:
                del self._owner[name]

    def _touch(self, owner: int) -> None:
        self._names[owner] = self._names.pop(owner)
