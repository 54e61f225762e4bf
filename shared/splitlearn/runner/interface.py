"""What the engine knows of running a part: sessions' keys and values, new rows, and `run`.

Shapes: T rows, D hidden size, V vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from splitlearn.attention.backend import FusionReport, KVCache
from splitlearn.attention.page_budget import PageBudget
from splitlearn.attention.sequence_slice import SequenceSlice
from splitlearn.errors import EngineFailed
from splitlearn.model.cache import PartCache
from splitlearn.model.part import Part, Wanted

__all__ = ["FusionReport", "KVCache", "PageBudget", "Runner", "SequenceInput", "SequenceSlice", "Wanted"]

K = TypeVar("K")


@dataclass(frozen=True)
class SequenceInput(Generic[K]):
    """New rows of one session, which follow its first `start` rows.

    Attributes:
        kv: the keys and values of the session.
        start: position of the first new row.
        rows: token ids [T] or hidden states [T, D].
        wanted: where the part ends the model, what its output is.
        n_likeliest: of the last row's logits those may be minus infinity that are smaller than so many others; None:
            none may.
    """

    kv: K
    start: int
    rows: torch.Tensor
    wanted: Wanted = "last"
    n_likeliest: int | None = None

    @property
    def slice(self) -> SequenceSlice[K]:
        return SequenceSlice(self.kv, self.start, self.rows.shape[0])


class Runner(ABC, Generic[K]):
    """Runs one part for many sessions. Used on one thread at a time.

    Args:
        part: filled, unless something else than the part itself computes its layers.

    Attributes:
        fusion: which modules of the part a backend runs by kernels of its own.
    """

    is_batched: bool
    """Whether rows of several sessions share a forward."""
    fusion: FusionReport

    def __init__(self, part: Part) -> None:
        self.part = part
        self.fusion = FusionReport(len(part.layers))

    @property
    def device(self) -> torch.device:
        """Where the layers are computed."""
        return self.part.device

    @property
    def max_session_rows(self) -> int | None:
        """Rows that a session may ever hold, however much memory there is; None for no bound."""
        return self.part.context_length

    @property
    def ends_model(self) -> bool:
        """Whether what comes out are logits, or the hidden states before the head."""
        return self.part.spec.end

    @property
    def can_truncate(self) -> bool:
        """Whether a session can go back to an earlier position."""
        return self.part.can_truncate

    @property
    @abstractmethod
    def row_bytes(self) -> int:
        """Memory for the keys and values of one row."""

    @abstractmethod
    def page_budget(self, page_size: int) -> PageBudget:
        """The pages that fit into memory, of `page_size` rows unless the backend has a page size of its own.

        Raises:
            NoRoom: not one fits.
        """

    @abstractmethod
    def new_kv(self, max_length: int | None) -> K:
        """Keys and values of a session of at most `max_length` rows."""

    def release(self, kv: K, n_rows: int = 0) -> None:
        """Frees all but the first `n_rows` rows of a session, which takes no more rows.

        From any thread, while no step runs with the session.
        """
        # by default memory goes with the last reference
        return

    def close(self) -> None:
        """Ends processes that the runner has started. It is not used any more."""
        # by default there are none
        return

    @abstractmethod
    def truncate(self, kv: K, position: int) -> K:
        """A session that keeps just its first `position` rows: 0, or any that it holds if the part can truncate."""

    def on_failure(self, tell: Callable[[EngineFailed], None]) -> None:
        """Has `tell` called once, on any thread, when processes that the runner needs are lost for good.

        At once if they are lost already. `run` then raises the same error. One caller is told, the last one.
        """
        # by default it needs none
        return

    @property
    @abstractmethod
    def can_share_rows(self) -> bool:
        """Whether a session can begin with rows of another one."""

    @abstractmethod
    def copy_prefix(self, kv: K, cached: K, n_rows: int) -> K:
        """A new session that holds the first `n_rows` rows of `cached`, which is not changed.

        Raises:
            PositionNotReached: `cached` does not hold them, or was released and has given them up.
        """

    @abstractmethod
    def run(self, inputs: Sequence[SequenceInput[K]]) -> list[torch.Tensor]:
        """Appends the rows of each input to its session, each session at most once.

        Where it raises, any of the sessions may hold some of its rows, until `truncate` drops them.

        Returns:
            For each input hidden states [T, D]; for a part that ends the model what is wanted of it: the logits [V] of
            its last row, [T, V] of all rows, the hidden states [T, D] before the head, or anything for "none".

        Raises:
            PositionNotReached: a session does not hold the rows before its own.
        """


def cache_of_one_row(part: Part) -> PartCache:
    """The cache of a session of one row that the part has run: shows what a row takes, and warms up the weights."""
    rows = torch.zeros(1, dtype=torch.long, device=part.device)
    if not part.spec.begin:
        rows = torch.zeros(1, part.hidden_size, dtype=part.dtype, device=part.device)
    cache = part.new_cache()
    part(rows, 0, cache)
    return cache
