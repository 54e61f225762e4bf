"""What stands for a CUDA device on the CPU: attention to pages in plain torch, and operations that are done again.

Shapes: S sessions, T rows of all sessions, H heads, K heads of keys, d width of a head, P pages, R rows of a page.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from splitlearn.attention.kv_layout import KVLayout
from splitlearn.backends.cuda.backend import PagedBackend
from splitlearn.backends.cuda.paged_attention import PagedKernel
from splitlearn.model.part import Part
from splitlearn.runner.batched import BatchedRunner
from splitlearn.runner.select import why_not_batched
from splitlearn.runner.sequential import SequentialRunner

PAGE_ROWS = 4
_aten = torch.ops.aten
# they wait for the device, or make a tensor there of numbers of the host
_NOT_IN_A_GRAPH = {
    _aten._local_scalar_dense.default,
    _aten.item.default,
    _aten.is_nonzero.default,
    _aten.equal.default,
    _aten.nonzero.default,
    _aten.nonzero_numpy.default,
    _aten.where.default,
    _aten.masked_select.default,
    _aten.repeat_interleave.Tensor,
    _aten._unique2.default,
    _aten.unique_consecutive.default,
    _aten.lift_fresh.default,
}


def _refuse_unless(holds: bool, words: str) -> None:
    if not holds:
        raise ValueError(f"FlashAttention 2 refuses this, or gets it wrong: {words}")


@torch.library.custom_op("splitlearn_tests::paged_attention", mutates_args=())
def _paged_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    ends: list[torch.Tensor],
    most: list[int],
    scale: float | None,
    window: list[int],
    held: torch.Tensor,
    block_table: torch.Tensor,
) -> torch.Tensor:
    """One operation, as the kernel is: it reads lengths and pages itself, at each replay."""
    n_sessions, page_rows = ends[0].shape[0] - 1, key.shape[1]
    for ints, shape in ((ends[0], (n_sessions + 1,)), (ends[1], (n_sessions + 1,)), (held, (n_sessions,))):
        _refuse_unless(ints.dtype is torch.int32 and ints.is_contiguous() and ints.shape == shape, "lengths")
    _refuse_unless(block_table.dtype is torch.int32 and block_table.stride(-1) == 1, "the block table")
    _refuse_unless(block_table.shape[0] == n_sessions and bool((block_table < key.shape[0]).all()), "the block table")
    _refuse_unless(query.dtype == key.dtype == value.dtype, "dtypes")
    _refuse_unless(all(tensor.stride(-1) == 1 for tensor in (query, key, value)), "strides")
    _refuse_unless(query.shape[2] == key.shape[3] == value.shape[3] and query.shape[2] % 8 == 0, "widths")
    new_ends, n_held = ends[0].tolist(), held.tolist()
    _refuse_unless(new_ends[-1] == query.shape[0] and torch.equal(ends[1].diff(), held), "lengths that add up")
    outputs = []
    for index, n_rows in enumerate(n_held):
        own = query[new_ends[index] : new_ends[index + 1]].transpose(0, 1)
        count = own.shape[1]
        _refuse_unless(count <= most[0] and count <= n_rows <= most[1], "lengths beyond what was said")
        pages = block_table[index, : -(-n_rows // page_rows)].long()
        keys, values = (pool[pages].flatten(0, 1)[:n_rows].transpose(0, 1) for pool in (key, value))
        back = torch.arange(n_rows - count, n_rows)[:, None] - torch.arange(n_rows)[None, :]
        seen = (back <= window[0]) | torch.tensor(window[0] < 0)
        seen &= (-back <= window[1]) | torch.tensor(window[1] < 0)
        output = torch.nn.functional.scaled_dot_product_attention(
            own[None], keys[None], values[None], attn_mask=seen, scale=scale, enable_gqa=True
        )
        outputs.append(output[0].transpose(0, 1))
    return torch.cat(outputs)


def plain_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
    seqused_k: torch.Tensor,
    block_table: torch.Tensor,
    num_splits: int | None = None,
) -> torch.Tensor:
    """As `varlen_attn` with pages: query [T, H, d], keys and values [P, R, K, d]. Refuses what the kernel would."""
    _refuse_unless(enable_gqa or query.shape[1] == key.shape[2], "heads that share keys")
    _refuse_unless(num_splits == 1, "split histories in pages (pytorch issue 194167)")
    ends, most = [cu_seq_q, cu_seq_k], [max_q, max_k]
    output: torch.Tensor = _paged_attention(
        query, key, value, ends, most, scale, list(window_size), seqused_k, block_table
    )
    return output


KERNEL = PagedKernel(plain_attention, dtypes=(torch.float32, torch.bfloat16), page_rows=PAGE_ROWS)


class _Calls(TorchDispatchMode):
    """Notes every operation with the tensors that it was given and that it gave."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        by_mask = func is _aten.index.Tensor and any(i is not None and i.dtype is torch.bool for i in args[1])
        if func in _NOT_IN_A_GRAPH or by_mask:
            raise RuntimeError(f"operation not permitted when stream is capturing: {func}")
        output = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, output))
        return output


@dataclass
class Record:
    """Stands for the capture of CUDA graphs, as strictly: the operations of one run, done again on the same memory.

    What the host decided stays as it was, and operations that wait for the device cannot be captured. The output is
    always in the same memory, too.
    """

    n_captured: int = 0
    n_replayed: int = 0

    def __call__(self, step: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        with _Calls() as noted:
            output = step()
        self.n_captured += 1
        memory = output.clone()

        def replay() -> torch.Tensor:
            self.n_replayed += 1
            made: dict[int, Any] = {}

            def now(noted: Any) -> Any:
                return made.get(id(noted), noted)

            for func, args, kwargs, outputs in noted.calls:
                new = func(*tree_map(now, args), **tree_map(now, kwargs))
                made.update(zip(map(id, tree_leaves(outputs)), tree_leaves(new), strict=True))
            return memory.copy_(made[id(output)])

        return replay


def pages_of(layout: KVLayout, n_pages: int, capture: Record | None = None) -> PagedBackend:
    """A store of so many pages for sessions."""
    return PagedBackend(layout, (n_pages + 1) * PAGE_ROWS * layout.row_bytes, KERNEL, capture)


def paged_runner(
    part: Part, kv_bytes: int | None = None, *, capture: Record | None = None, n_pages: int = 64
) -> BatchedRunner | SequentialRunner:
    """As `runner_for` on a CUDA device; with no bytes given, of so many pages for sessions."""
    if why_not_batched(part) is not None:
        return SequentialRunner(part, kv_bytes)

    def store(layout: KVLayout, n_bytes: int | None) -> PagedBackend:
        pages = n_pages if n_bytes is None else n_bytes // (PAGE_ROWS * layout.row_bytes)
        return pages_of(layout, pages, capture)

    return BatchedRunner(part, kv_bytes, store)
