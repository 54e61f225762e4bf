"""What a backend offers: keys and values of sessions, attention to them, and faster ways to run a part.

Shapes: T rows of all sessions, N rows that one session holds, S sessions, D hidden size, V vocabulary, H heads, K heads
of keys, d head dimension.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from splitlearn.attention.mask import AttentionMask
from splitlearn.attention.page_budget import PageBudget
from splitlearn.attention.params import AttentionParams
from splitlearn.attention.sequence_slice import SequenceSlice
from splitlearn.model.part import Part


class KVCache(Protocol):
    """The keys and values of one session."""

    n_rows: int

    def truncate(self, position: int) -> None:
        """Keeps at most the first `position` rows."""

    def copy_from(self, other: Any, count: int) -> None:
        """Takes over the first `count` rows of another session of the same backend."""


class StepAttention(Protocol):
    """Attention of one step: where its sessions hold keys and values, and how rows attend to them."""

    def store(self, layer: int, keys_KTd: torch.Tensor, values_KTd: torch.Tensor) -> None:
        """Writes the keys and values of the step's rows to the sessions' caches."""

    def gather(self, index: int, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """All keys and values of one session in a layer, [K, N, d]."""

    def attend(
        self, layer: int, query_HTd: torch.Tensor, mask: AttentionMask | None, params: AttentionParams
    ) -> tuple[torch.Tensor, Sequence[int]] | None:
        """Outputs [T, H, d], contiguous, and the sessions whose rows are not computed in them; None: none are."""


Forward = Callable[[torch.Tensor, torch.Tensor, StepAttention], torch.Tensor]
"""Rows [S] or [S, D], positions [1, S] and attention of a step of one row per session, to hidden states [S, D] or
logits [S, V]."""


@dataclass(frozen=True)
class FusionReport:
    """Which modules of a part a backend runs by kernels of its own.

    Attributes:
        n_layers: decoder layers of the part.
        n_fused_attention: attention modules that are fused.
        n_fused_layers: layers that run as a whole in one call.
        is_decoder_fused: whether all layers run in one call, without transformers' code around them.
        n_experts: modules with a mixture of experts.
        n_fused_experts: those of them that read no other weights than those of chosen experts, in one call.
    """

    n_layers: int
    n_fused_attention: int = 0
    n_fused_layers: int = 0
    is_decoder_fused: bool = False
    n_experts: int = 0
    n_fused_experts: int = 0

    @property
    def is_batch_invariant(self) -> bool:
        """Whether a row's bits are the same whatever rows run beside it: our kernels' are, stock operators' are not."""
        return self.n_fused_layers == self.n_layers

    def __str__(self) -> str:
        decoder = "yes" if self.is_decoder_fused else "no"
        experts = f", experts of {self.n_fused_experts}/{self.n_experts}" if self.n_experts else ""
        return (
            f"fused {self.n_fused_layers}/{self.n_layers} layers, attention of {self.n_fused_attention}/"
            f"{self.n_layers}, decoder {decoder}{experts}"
        )


class AttentionBackend(Protocol):
    """Holds the keys and values of all sessions of a part.

    A session reads only what it has written: nothing is read past the rows that were reserved for it, whatever the
    memory behind them held before.
    """

    @property
    def row_bytes(self) -> int:
        """Memory for the keys and values of one row."""

    def page_budget(self, page_size: int) -> PageBudget:
        """The pages that fit into memory, of `page_size` rows unless the backend has a page size of its own."""

    def new_kv(self, max_length: int | None) -> Any:
        """Keys and values of a session of at most `max_length` rows."""

    def begin_step(self, sessions: Sequence[SequenceSlice[Any]]) -> StepAttention:
        """Truncates each session to its slice's start, and reserves memory for the slice."""

    def release(self, kv: Any, n_rows: int) -> None:
        """As `Runner.release`."""

    def fuse(self, part: Part, run: Callable[[], list[torch.Tensor]]) -> FusionReport:
        """Replaces modules of `part` by faster ones where both give the same.

        Args:
            run: steps through the part, with rows of several sessions; returns their outputs.
        """

    def prepare_decode(self, forward: Forward, max_length: int | None) -> None:
        """Lets `run_step` replay `forward` for steps of one row per session.

        Args:
            forward: must do the same operations in each call.
            max_length: that a session holds; None for no bound.
        """

    def run_step(
        self,
        rows: torch.Tensor,
        sessions: Sequence[SequenceSlice[Any]],
        wanted: Sequence[int] | None,
        position_offset: int,
        n_likeliest: int | None,
    ) -> torch.Tensor | None:
        """Runs a step without the model's own forward.

        Args:
            rows: of all sessions, [T] or [T, D].
            wanted: the rows whose logits are wanted, ascending; None for a part that does not end the model.
            position_offset: how much more the positions are than those in the sessions.
            n_likeliest: logits may be minus infinity if they are smaller than so many of their row; None: none may.

        Returns:
            Hidden states [T, D], or logits [len(wanted), V]. None where the backend has no faster way for such a step.
        """
