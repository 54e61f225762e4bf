"""Steps of a ragged cache, without a runner."""

from collections.abc import Callable, Sequence
from typing import Any

from splitlearn.attention.backend import StepAttention
from splitlearn.attention.ragged import RaggedCache
from splitlearn.backends.cpu.contiguous_attention import ContiguousAttention


def begin_step(
    cache: RaggedCache,
    sessions: Sequence[tuple[Any, int, int]],
    attention: Callable[[Any], StepAttention] = ContiguousAttention,
) -> None:
    """Sessions with the rows that each keeps and those that it brings."""
    cache.begin(attention(sessions), [position for _, position, _ in sessions], [count for _, _, count in sessions])
