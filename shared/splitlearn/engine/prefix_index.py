"""Which cached prefix has which blocks, so that a session that begins alike can reuse it. Plain values, no tensors.

The caller that opens a session gives one hash for each block that it begins with. A block's hash covers the block and
all blocks before it, so two sessions whose n-th hashes are equal begin with the same n blocks. The index does not know
how hashes are made and does not trust them: a match has all of its blocks cached under exactly these hashes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class PrefixIndex:
    """The block hashes of each cached prefix, the least recently used prefix first.

    Attributes:
        max_prefixes: cached prefixes at a time.
    """

    max_prefixes: int
    _hashes: dict[int, tuple[bytes, ...]] = field(default_factory=dict)
    _owner: dict[bytes, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._hashes)

    def find(self, block_hashes: Sequence[bytes]) -> tuple[int, int] | None:
        """The owner of the cached prefix that shares most blocks with `block_hashes`, and how many; None without one.

        The prefix becomes the most recently used.
        """
        found = self._match(block_hashes)
        if found is not None:
            self._touch(found[0])
        return found

    def insert(self, owner: int, block_hashes: Sequence[bytes]) -> list[int]:
        """Adds the prefix of `owner`, which has at least one block.

        Returns:
            The owners that were evicted: those whose prefix the new one continues, and the least recently used ones
            beyond `max_prefixes`.
        """
        others = {self._owner[block] for block in block_hashes if block in self._owner}
        evicted = [other for other in others if _is_prefix(self._hashes[other], block_hashes)]
        for other in evicted:
            self.remove(other)
        self._hashes[owner] = tuple(block_hashes)
        self._owner.update(dict.fromkeys(block_hashes, owner))
        while len(self._hashes) > self.max_prefixes:
            evicted.append(self.least_recently_used())
            self.remove(evicted[-1])
        return evicted

    def contains(self, block_hashes: Sequence[bytes]) -> bool:
        """Whether all of these blocks are cached."""
        found = self._match(block_hashes)
        return found is not None and found[1] == len(block_hashes)

    def least_recently_used(self) -> int:
        return next(iter(self._hashes))

    def remove(self, owner: int) -> None:
        for block in self._hashes.pop(owner):
            if self._owner.get(block) == owner:
                del self._owner[block]

    def _match(self, block_hashes: Sequence[bytes]) -> tuple[int, int] | None:
        owner = next((self._owner[block] for block in reversed(block_hashes) if block in self._owner), None)
        n_shared = 0 if owner is None else _n_shared(self._hashes[owner], block_hashes)
        return (owner, n_shared) if owner is not None and n_shared else None

    def _touch(self, owner: int) -> None:
        self._hashes[owner] = self._hashes.pop(owner)


def _is_prefix(some: Sequence[bytes], others: Sequence[bytes]) -> bool:
    return _n_shared(some, others) == len(some)


def _n_shared(some: Sequence[bytes], others: Sequence[bytes]) -> int:
    """The number of blocks that both begin with."""
    pairs = enumerate(zip(some, others, strict=False))
    return next((i for i, (one, other) in pairs if one != other), min(len(some), len(others)))
