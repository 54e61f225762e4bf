"""Names for the blocks of a prompt, by which a trunk finds rows that it has kept without seeing a token.

A name is a keyed hash (HMAC, RFC 2104) of the name before it and the block's token ids. The key never leaves this
process, so nobody else can guess names, and names of other clients never match. What a trunk does learn: that two
sessions of this client begin with the same blocks, and how many.
"""

import hmac
import secrets
from collections.abc import Sequence

import numpy as np

from splitlearn_comm import MOST_NAMES

NAME_BYTES = 16


class BlockNames:
    """Names blocks with one key.

    Args:
        block_rows: tokens of a block.
        key: 32 random bytes where it is None.
    """

    def __init__(self, block_rows: int, key: bytes | None = None) -> None:
        self.block_rows = block_rows
        self._key = key or secrets.token_bytes(32)

    def of(self, ids: Sequence[int]) -> tuple[bytes, ...]:
        """One name for each whole block of `ids`, the first first; no more than one message takes."""
        names: list[bytes] = []
        before = b""
        for start in range(0, len(ids) - self.block_rows + 1, self.block_rows)[:MOST_NAMES]:
            block = np.asarray(ids[start : start + self.block_rows], dtype="<i8").tobytes()
            before = hmac.digest(self._key, before + block, "sha256")[:NAME_BYTES]
            names.append(before)
        return tuple(names)
