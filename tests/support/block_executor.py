"""Stands for vLLM's workers: each row comes out as the sum of all rows of its session up to it, read out of blocks.

It knows nothing but what plans tell it. Blocks that were never written hold NaN, so whoever reads a wrong one is seen.

Shapes: T rows, D hidden size, B blocks, R rows of a block.
"""

from collections.abc import Callable

import torch

from splitlearn.backends.vllm.blocks import CacheSize
from splitlearn.backends.vllm.step_plan import StepPlan
from splitlearn.errors import EngineFailed

BLOCK_ROWS = 4
WIDTH = 64


class BlockExecutor:
    """As `splitlearn.backends.vllm.executor.VLLMExecutor`.

    Attributes:
        requests: the blocks of each request that it was told of and has not forgotten.
        fail_at: forwards after which the next one fails; before or after it has written its rows.
        error: what it then raises.
        tell: who waits for a failure of its processes.
        adds_up: whether hidden states and residual are summands.
    """

    def __init__(self, n_blocks: int = 40, max_session_rows: int = 100, *, adds_up: bool = True) -> None:
        self.cache = CacheSize(n_blocks, BLOCK_ROWS, 16, max_session_rows)
        self.device = torch.device("cpu")
        self.memory_BRD = torch.full((n_blocks, BLOCK_ROWS, WIDTH), torch.nan)
        self.requests: dict[str, list[int]] = {}
        self.plans: list[StepPlan] = []
        self.is_closed = False
        self.fails: str | None = None
        self.error: Exception = RuntimeError("out of memory")
        self.tell: Callable[[EngineFailed], None] | None = None
        self._adds_up = adds_up

    def run(self, plan: StepPlan, rows_TD: torch.Tensor, *, halve: bool = False) -> torch.Tensor:
        self.plans.append(plan)
        if self.fails == "before":
            raise self.error
        for name in plan.finished:
            self.requests.pop(name, None)
        for of, to in plan.copies:
            self.memory_BRD[to] = self.memory_BRD[of]
        outputs = []
        for each, own_TD in zip(plan.rows, rows_TD.split([one.length for one in plan.rows]), strict=True):
            if each.is_new:
                assert each.name not in self.requests
                self.requests[each.name] = []
            table = self.requests[each.name]
            table += each.blocks
            for i, row_D in enumerate(own_TD, each.start):
                self.memory_BRD[table[i // BLOCK_ROWS], i % BLOCK_ROWS] = row_D
            held_TD = self.memory_BRD[table].flatten(0, 1)[: each.start + each.length]
            outputs.append(held_TD.cumsum(0)[each.start :])
        if self.fails == "after":
            raise self.error
        output_TD = torch.cat(outputs)
        return output_TD / 2 if halve and not self._adds_up else output_TD

    def on_failure(self, tell: Callable[[EngineFailed], None]) -> None:
        self.tell = tell

    def close(self) -> None:
        self.is_closed = True
