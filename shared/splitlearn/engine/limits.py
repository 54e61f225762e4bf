"""The bounds of one engine."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of one engine.

    Attributes:
        max_num_batched_tokens: rows of prompts in one step.
        max_num_seqs: sessions that hold pages at a time.
        max_waiting: sessions that may wait for admission.
        kv_cache_memory_bytes: memory for keys and values; None for no bound, or for half of what is free where it is
            all allocated at the start.
        page_size: rows of a page, unless the attention kernel needs another size.
        headroom: rows beyond its first ones for which there must be pages before a session is admitted.
        max_cached_prefixes: closed sessions whose first rows are cached for later ones; 0 caches none.
        block_size: rows of a block, the unit in which prefixes are compared.
        queue_timeout: seconds that rows may wait for admission. A session that may have to wait longer is refused
            at once, and one that has waited for longer is refused then; None for no bound.
    """

    max_num_batched_tokens: int = 512
    max_num_seqs: int = 256
    max_waiting: int = 1024
    kv_cache_memory_bytes: int | None = None
    page_size: int = 32
    headroom: int = 64
    max_cached_prefixes: int = 64
    block_size: int = 32
    queue_timeout: float | None = None
