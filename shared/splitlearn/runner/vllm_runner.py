"""Runs the rows of all sessions of a step on vLLM's workers.

Shapes: T rows of all sessions, D hidden size.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from splitlearn.attention.page_budget import PageBudget
from splitlearn.attention.sequence_slice import SequenceSlice
from splitlearn.backends.vllm.blocks import BlockPool, CacheSize, SessionBlocks
from splitlearn.backends.vllm.step_plan import Piece, Planner, StepPlan, forwards
from splitlearn.errors import EngineFailed, UnsupportedModel, one_line
from splitlearn.model.part import Part
from splitlearn.runner.interface import Runner, SequenceInput

_PROBE_ROWS = 3
_ROUNDING = 1e-2


class StepExecutor(Protocol):
    """As `splitlearn.backends.vllm.executor.VLLMExecutor`, which cannot be imported without vLLM."""

    cache: CacheSize

    @property
    def device(self) -> torch.device: ...

    def on_failure(self, tell: Callable[[EngineFailed], None]) -> None: ...

    def run(self, plan: StepPlan, rows_TD: torch.Tensor, *, halve: bool = False) -> torch.Tensor: ...

    def close(self) -> None: ...


class VLLMRunner(Runner[SessionBlocks]):
    """All rows in one forward of vLLM's, as long as they are not more than it was made for.

    Args:
        part: need not be filled: it says what the layers are.
        executor: has the layers and the blocks; the runner closes it.
        max_rows, max_requests: that one forward takes.

    Raises:
        UnsupportedModel: what the layers pass to each other are not rows, or two summands of rows.
    """

    is_batched = True

    def __init__(self, part: Part, executor: StepExecutor, max_rows: int, max_requests: int) -> None:
        super().__init__(part)
        self._executor = executor
        self._max_rows, self._max_requests = max_rows, max_requests
        self._pool = BlockPool(executor.cache.n_blocks, executor.cache.block_rows)
        self._planner = Planner(self._pool)
        try:
            self._check_summands()
        except Exception:
            executor.close()
            raise

    def _check_summands(self) -> None:
        """Lets the same rows enter whole and as two halves: layers that add both up make the same of them."""
        generator = torch.Generator().manual_seed(0)
        rows_TD = torch.randn(_PROBE_ROWS, self.part.hidden_size, generator=generator).to(self.part.dtype)
        outputs = []
        for halve in (False, True):
            session = self.new_kv(None)
            plan = self._planner.plan([SequenceSlice(session, 0, _PROBE_ROWS)])
            try:
                outputs.append(self._executor.run(plan, rows_TD, halve=halve).float())
            except (EngineFailed, RuntimeError) as error:
                # its kernels say what they do not compute when they first run
                raise UnsupportedModel(f"vLLM fails at the first rows: {one_line(error)}") from error
            self.release(session)
        whole_TD, halved_TD = outputs
        if not (whole_TD - halved_TD).norm() <= _ROUNDING * whole_TD.norm():
            raise UnsupportedModel("its layers pass two kinds of rows to each other in vLLM that are not summands")

    @property
    def device(self) -> torch.device:
        return self._executor.device

    @property
    def max_session_rows(self) -> int | None:
        own = self._executor.cache.max_session_rows
        return min(own, self.part.context_length or own)

    @property
    def can_truncate(self) -> bool:
        return True

    @property
    def row_bytes(self) -> int:
        return self._executor.cache.row_bytes

    def page_budget(self, page_size: int) -> PageBudget:
        return PageBudget(self._pool.total, self._pool.block_rows)

    def new_kv(self, max_length: int | None) -> SessionBlocks:
        return SessionBlocks()

    def release(self, kv: SessionBlocks, n_rows: int = 0) -> None:
        self._pool.release(kv, n_rows)

    def on_failure(self, tell: Callable[[EngineFailed], None]) -> None:
        self._executor.on_failure(tell)

    def close(self) -> None:
        self._executor.close()

    def truncate(self, kv: SessionBlocks, position: int) -> SessionBlocks:
        self._pool.truncate(kv, position)
        return kv

    @property
    def can_share_rows(self) -> bool:
        return True

    def copy_prefix(self, kv: SessionBlocks, cached: SessionBlocks, n_rows: int) -> SessionBlocks:
        self._pool.share(kv, cached, n_rows)
        return kv

    def run(self, inputs: Sequence[SequenceInput[SessionBlocks]]) -> list[torch.Tensor]:
        outputs: list[list[torch.Tensor]] = [[] for _ in inputs]
        for pieces in forwards([each.rows.shape[0] for each in inputs], self._max_rows, self._max_requests):
            for piece, rows_TD in zip(pieces, self._forward(inputs, pieces), strict=True):
                outputs[piece.index].append(rows_TD)
        return [torch.cat(each) for each in outputs]

    def _forward(self, inputs: Sequence[SequenceInput[SessionBlocks]], pieces: Sequence[Piece]) -> list[torch.Tensor]:
        slices = [
            SequenceSlice(inputs[each.index].kv, inputs[each.index].start + each.offset, each.length) for each in pieces
        ]
        rows_TD = torch.cat([inputs[each.index].rows[each.offset : each.offset + each.length] for each in pieces])
        plan = self._planner.plan(slices)
        try:
            outputs_TD = self._executor.run(plan, rows_TD)
        except Exception:
            self._planner.fail(slices, plan)
            raise
        return list(torch.split(outputs_TD, [each.length for each in pieces]))
