"""Keyed hashes of a prompt's blocks, by which a trunk finds cached rows without seeing a token.

A block's hash is an HMAC (RFC 2104) over the hash of the block before it and the block's token ids. The key never
leaves this process, so nobody else can compute a hash, and hashes of other clients never match. Each tenant has a key
of its own, derived from that one, so has each of a tenant's salts, and so has each codec, which may round rows: hashes
of different tenants, salts or codecs never match either. A trunk does learn that two sessions of one tenant and
salt begin with the same blocks, and how many.
"""

import hmac
import secrets
from collections.abc import Sequence

import numpy as np

from splitlearn_comm import MAX_BLOCK_HASHES

HASH_BYTES = 16


class BlockHasher:
    """Hashes blocks with one key per tenant.

    Args:
        block_size: tokens per block.
        key: 32 bytes, from which the tenants' keys are derived; random ones by default.
    """

    def __init__(self, block_size: int, key: bytes | None = None) -> None:
        self.block_size = block_size
        self._key = key or secrets.token_bytes(32)

    def hashes(self, ids: Sequence[int], tenant: str = "", salt: str = "", codec: str = "none") -> tuple[bytes, ...]:
        """One hash for each full block of `ids`, in their order; at most as many as one message takes.

        Args:
            tenant: the name of whose ids they are.
            salt: what the request names so that only requests with the same one match.
            codec: of the rows on the wire.
        """
        key = self._key
        for name in (tenant, salt, codec):
            key = hmac.digest(key, name.encode(), "sha256")
        hashes: list[bytes] = []
        previous = b""
        for start in range(0, len(ids) - self.block_size + 1, self.block_size)[:MAX_BLOCK_HASHES]:
            block = np.asarray(ids[start : start + self.block_size], dtype="<i8").tobytes()
            previous = hmac.digest(key, previous + block, "sha256")[:HASH_BYTES]
            hashes.append(previous)
        return tuple(hashes)
