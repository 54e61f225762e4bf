"""Runs rows of several sessions through a part: in one forward where the architecture allows it, else in turn.

Shapes: T rows, D hidden size, V vocabulary.
"""

import copy
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Generic, Protocol, TypeVar

import torch

from splitlearn.cache import PartCache
from splitlearn.hf.attention_interface import AttentionSwitch, supports_attention_interface
from splitlearn.kernels import are_off
from splitlearn.kv.page_budget import PageBudget
from splitlearn.kv.sequence_slice import SequenceSlice
from splitlearn.kv.store import KVLayout, check_held
from splitlearn.part import Part
from splitlearn.steps.attention import make_attention_native
from splitlearn.steps.decoder import make_decoder_native
from splitlearn.steps.graphs import CudaCapture
from splitlearn.steps.layers import make_layers_native
from splitlearn.steps.paged import PagedKernel, PageRows
from splitlearn.steps.ragged import NAME, RaggedCache, ragged_step
from splitlearn.steps.stores import Pages, Pieces, Store
from splitlearn.traits import why_not_in_batches


class KeepsRows(Protocol):
    """What a store makes for one session."""

    n_rows: int

    def truncate(self, position: int) -> None:
        """Keeps at most the first `position` rows."""

    def copy_from(self, other: Any, count: int) -> None:
        """Takes over the first `count` rows of another session of the same store."""


K = TypeVar("K", KeepsRows, PartCache)


@dataclass(frozen=True)
class SequenceInput(Generic[K]):
    """New rows of one session, which follow its first `start` rows.

    Attributes:
        kv: the keys and values of the session.
        start: position of the first new row.
        rows: token ids [T] or hidden states [T, D].
        needs_output: whether the output is used.
    """

    kv: K
    start: int
    rows: torch.Tensor
    needs_output: bool = True

    @property
    def slice(self) -> SequenceSlice[K]:
        return SequenceSlice(self.kv, self.start, self.rows.shape[0])


class Runner(ABC, Generic[K]):
    """One part and how its sessions are run. Used on one thread at a time.

    Args:
        kv_bytes: that keys and values may take; None for no bound.
    """

    in_batches: bool
    """Whether rows of several sessions share a forward."""

    def __init__(self, part: Part, kv_bytes: int | None = None) -> None:
        self.part = part
        self._kv_bytes = kv_bytes
        rows = torch.zeros(1, dtype=torch.long, device=part.device)
        if not part.spec.begin:
            rows = torch.zeros(1, part.hidden_size, dtype=part.dtype, device=part.device)
        cache = part.new_cache()
        part(rows, 0, cache)
        self._learn(cache)

    @abstractmethod
    def _learn(self, cache: PartCache) -> None:
        """Takes from the cache of a first row what a row takes."""

    @property
    @abstractmethod
    def row_bytes(self) -> int:
        """Memory for the keys and values of one row."""

    def page_budget(self, page_size: int) -> PageBudget:
        """The pages that there is memory for, of `page_size` rows unless the store has a size of its own.

        Raises:
            NoRoom: there is memory for none.
        """
        return PageBudget.within(self._kv_bytes, self.row_bytes, page_size)

    @abstractmethod
    def new_kv(self, max_length: int | None) -> K:
        """Keys and values of a session of at most `max_length` rows."""

    def release(self, kv: K, n_rows: int = 0) -> None:
        """Frees all but the first `n_rows` rows of a session, which takes no more rows.

        From any thread, while no step runs with the session.
        """
        # by default memory goes with the last reference
        return

    @abstractmethod
    def truncate(self, kv: K, position: int) -> K:
        """A session that keeps just its first `position` rows: 0, or any that it holds if the part can truncate."""

    @property
    @abstractmethod
    def can_share_rows(self) -> bool:
        """Whether a session can begin with rows of another one."""

    @abstractmethod
    def copy_prefix(self, kv: K, kept: K, n_rows: int) -> K:
        """A new session that holds the first `n_rows` rows of `kept`, which stays as it is.

        Raises:
            PositionNotReached: `kept` does not hold them, or was let go and has given them up.
        """

    @abstractmethod
    def run(self, inputs: Sequence[SequenceInput[K]]) -> list[torch.Tensor]:
        """Appends the rows of each input to its session, each session at most once.

        Where it raises, any of the sessions may hold some of its rows, until `truncate` drops them.

        Returns:
            For each input hidden states [T, D]; for a part that ends the model the logits [V] of its last row, or
            anything where the input needs no output.

        Raises:
            PositionNotReached: a session does not hold the rows before its own.
        """


class InBatches(Runner[KeepsRows]):
    """All rows in one forward.

    Args:
        store: where sessions keep their rows, made for a layout and so many bytes.
    """

    in_batches = True

    def __init__(
        self, part: Part, kv_bytes: int | None = None, store: Callable[[KVLayout, int | None], Store] = Pieces
    ) -> None:
        self._make_store = store
        super().__init__(part, kv_bytes)

    def _learn(self, cache: PartCache) -> None:
        tensors = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
        shapes = tuple((tensor.shape[1], tensor.shape[3]) for tensor in tensors)
        self._layout = KVLayout(shapes, tensors[0].dtype, tensors[0].device)
        self._store = self._make_store(self._layout, self._kv_bytes)
        self._graphs = self._store.graphs(self._decode, self.part.context_length)
        self._cache = RaggedCache(self._store.rows)
        self._attention = AttentionSwitch(self.part.modules())
        make_attention_native(self.part, self._try)
        make_layers_native(self.part, self._try)
        make_decoder_native(self.part.model.get_submodule(self.part.anatomy.decoder), self._try)

    def _try(self) -> list[torch.Tensor]:
        """What comes out as a session begins, goes on while another begins, and both bring a row more.

        Then the same at the end of the context: some models weigh rows by how far they are from the beginning.
        """
        n_rows, found = 7, []
        for further in (0, max(0, (self.part.context_length or 0) - n_rows)):
            first, second = self.new_kv(n_rows), self.new_kv(n_rows)
            found += self._run([SequenceInput(first, 0, self._any_rows(5))], further)
            found += self._run(
                [SequenceInput(first, 5, self._any_rows(1)), SequenceInput(second, 0, self._any_rows(3))], further
            )
            found += self._run(
                [SequenceInput(first, 6, self._any_rows(1)), SequenceInput(second, 3, self._any_rows(1))], further
            )
            for kv in (first, second):
                self.release(kv)
        return found

    def _any_rows(self, count: int) -> torch.Tensor:
        dice = torch.Generator().manual_seed(count)
        if self.part.spec.begin:
            vocabulary = self.part.config.get_text_config(decoder=True).vocab_size
            return torch.randint(vocabulary, (count,), generator=dice)
        return torch.randn(count, self.part.hidden_size, generator=dice).to(self.part.dtype)

    @property
    def row_bytes(self) -> int:
        return self._layout.row_bytes

    def page_budget(self, page_size: int) -> PageBudget:
        return self._store.page_budget(page_size)

    def new_kv(self, max_length: int | None) -> KeepsRows:
        kv: KeepsRows = self._store.new_kv(max_length)
        return kv

    def release(self, kv: KeepsRows, n_rows: int = 0) -> None:
        self._store.release(kv, n_rows)

    def truncate(self, kv: KeepsRows, position: int) -> KeepsRows:
        kv.truncate(position)
        return kv

    @property
    def can_share_rows(self) -> bool:
        return True

    def copy_prefix(self, kv: KeepsRows, kept: KeepsRows, n_rows: int) -> KeepsRows:
        kv.copy_from(kept, n_rows)
        return kv

    def run(self, inputs: Sequence[SequenceInput[KeepsRows]]) -> list[torch.Tensor]:
        return self._run(inputs)

    @torch.inference_mode()
    def _run(self, inputs: Sequence[SequenceInput[KeepsRows]], further: int = 0) -> list[torch.Tensor]:
        """Rows of which the model is told that they lie `further` behind where they are kept."""
        sessions = [each.slice for each in inputs]
        lengths = [each.length for each in sessions]
        positions = [i for each in sessions for i in range(each.start, each.end)]
        rows = inputs[0].rows if len(inputs) == 1 else torch.cat([each.rows for each in inputs])
        if self._graphs is not None and len(positions) == len(inputs):
            decoded = self._graphs.run(rows, sessions)
            if decoded is not None:
                # the next step is replayed into the same memory, and one copy takes less than one for each
                decoded = decoded.to("cpu", copy=True)
                return list(decoded if self.part.spec.end else decoded[:, None])
        rows = rows.to(self._layout.device)
        options: dict[str, Any] = {
            "past_key_values": self._cache,
            "use_cache": True,
            "position_ids": torch.tensor([[position + further for position in positions]], device=rows.device),
        }
        self._cache.begin(sessions)
        with ragged_step(self._cache), self._attention.to(NAME):
            if not self.part.spec.end:
                return list(self.part.run(rows[None], **options)[0].split(lengths))
            return self._logits(rows, inputs, list(accumulate(lengths)), options)

    def _logits(
        self, rows: torch.Tensor, inputs: Sequence[SequenceInput[KeepsRows]], ends: list[int], options: dict[str, Any]
    ) -> list[torch.Tensor]:
        wanted = [end - 1 for each, end in zip(inputs, ends, strict=True) if each.needs_output]
        kept = torch.tensor(wanted, dtype=torch.long, device=rows.device)
        if self.part.keeps_last_rows:
            logits_SV = self.part.run(rows[None], logits_to_keep=kept, **options).logits[0]
        else:
            logits_SV = self.part.run(rows[None], **options).logits[0, kept]
        computed = iter(logits_SV)
        return [next(computed) if each.needs_output else logits_SV.new_empty(0) for each in inputs]

    def _decode(self, rows: torch.Tensor, positions_1B: torch.Tensor, where: PageRows) -> torch.Tensor:
        """A row of each session, the same operations each time: hidden states [B, D], or logits [B, V]."""
        self._cache.begin_at(where, [], [1] * rows.shape[0])
        with ragged_step(self._cache), self._attention.to(NAME):
            output = self.part.run(rows[None], past_key_values=self._cache, use_cache=True, position_ids=positions_1B)
        return torch.as_tensor((output.logits if self.part.spec.end else output)[0])


class InTurn(Runner[PartCache]):
    """One session after the other."""

    in_batches = False

    def _learn(self, cache: PartCache) -> None:
        tensors = [getattr(layer, name, None) for layer in cache.layers for name in ("keys", "values")]
        self._row_bytes = sum(tensor.nbytes for tensor in tensors if isinstance(tensor, torch.Tensor))

    @property
    def row_bytes(self) -> int:
        return self._row_bytes

    def new_kv(self, max_length: int | None) -> PartCache:
        return self.part.new_cache()

    def truncate(self, kv: PartCache, position: int) -> PartCache:
        if position == 0:
            return self.part.new_cache()
        if self.part.can_truncate:
            kv.truncate(position)
            kv.n_rows = min(kv.n_rows, position)
        return kv

    @property
    def can_share_rows(self) -> bool:
        return self.part.can_truncate

    def copy_prefix(self, kv: PartCache, kept: PartCache, n_rows: int) -> PartCache:
        check_held(kept.n_rows, n_rows)
        return self.truncate(copy.deepcopy(kept), n_rows)

    def run(self, inputs: Sequence[SequenceInput[PartCache]]) -> list[torch.Tensor]:
        for each in inputs:
            check_held(each.kv.n_rows, each.start)
        return [self.part(each.rows.to(self.part.device), each.start, each.kv) for each in inputs]


def runner_for(part: Part, kv_bytes: int | None = None) -> InBatches | InTurn:
    """The runner that suits a filled part; runs small steps to learn what a row takes and what may stand in
    for its modules, which also warms up the weights.

    Args:
        kv_bytes: that keys and values may take; None for no bound, or half of a CUDA device's free memory, where all
            that they may take is taken now.

    Raises:
        NoRoom: a CUDA device's memory does not hold a page.
    """
    if why_in_turn(part) is not None:
        return InTurn(part, kv_bytes)
    return InBatches(part, kv_bytes, _pages_on_cuda if _attends_to_pages(part) else Pieces)


def _attends_to_pages(part: Part) -> bool:
    kernel = PagedKernel()
    if are_off():
        return False
    if part.device.type != "cuda" or part.dtype not in kernel.dtypes:
        return False
    # torch calls AMD's devices "cuda" too; its FlashAttention there reads no pages
    if torch.version.hip is not None or not torch.backends.cuda.is_flash_attention_available():
        return False
    if torch.cuda.get_device_capability(part.device) < kernel.capability:
        return False
    if kernel.lacking:
        logging.getLogger(__name__).warning(
            "each session is attended to by itself, without CUDA graphs: varlen_attn of torch %s takes no %s",
            torch.__version__,
            ", ".join(kernel.lacking),
        )
    return not kernel.lacking


def _pages_on_cuda(layout: KVLayout, kv_bytes: int | None) -> Pages:
    return Pages(layout, kv_bytes, PagedKernel(), CudaCapture(layout.device))


def why_in_turn(part: Part) -> str | None:
    """Why sessions of this part cannot share a forward; None if they can."""
    reason = why_not_in_batches(part.config)
    if reason is not None:
        return reason
    if not part.remembers_rows_alone:
        return "it remembers more of a text than keys and values"
    if not part.takes_positions:
        return "it counts positions itself, and takes none"
    if not supports_attention_interface(part.model):
        return "transformers does not say that another attention can take the place of its own"
    return None
