"""Attention modules of queries, keys and values from linear layers, run by our kernels with little in between.

Norms of heads, rotated positions, keeping rows and attending take two calls in place of some forty small operations.

Shapes: T rows of all sessions, D hidden size.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from splitlearn.fused import NativeRMSNorm, same_numbers
from splitlearn.hf.modeling import HEAD_NORMS, PROJECTIONS
from splitlearn.kv.table import HeadNorms
from splitlearn.linear import Native
from splitlearn.linear.siblings import shared_linear
from splitlearn.steps.ragged import attend_rows
from splitlearn.steps.rows import How
from splitlearn.steps.standing_in import Asked, put_stand_ins
from splitlearn.torch_private import own_modules, own_parameters


@dataclass(frozen=True)
class AttentionPlan:
    """What one attention module does, between its linear layers, to the rows of one layer of the cache.

    Attributes:
        width: of a head.
        projects: to queries, keys and values at once.
        projects_out: back to the hidden size.
        norms: of the heads of queries and keys; None if there are none.
        is_turned: queries and keys are rotated by the position of their row.
        how: it asks for attention.
    """

    layer: int
    width: int
    projects: Native
    projects_out: Native
    norms: HeadNorms | None
    is_turned: bool
    how: How

    def run(self, asked: Asked) -> torch.Tensor:
        """[1, T, D] to the same."""
        cache = asked.cache
        table = cache.enter(self.layer)
        projected = self.projects(asked.hidden)
        turns = asked.turns if self.is_turned else None
        queries_HTd = table.place_heads(self.layer, projected[0], turns, self.norms)
        output_THd = attend_rows(cache, queries_HTd, asked.rule, self.how)
        return torch.as_tensor(self.projects_out(output_THd.flatten(1)[None]))


def make_attention_native(module: nn.Module, run: Callable[[], object]) -> int:
    """Gives attention modules inside `module` a forward by our kernels; returns how many.

    Args:
        run: ragged steps through all of `module`, with rows of several sessions.
    """
    return put_stand_ins((each for each in module.modules() if _may_be_native(each)), _plans, run, same_numbers)


def _plans(module: nn.Module, asked: Asked) -> Iterator[AttentionPlan]:
    projections, how = _projections(module), asked.cache.how
    if projections is None or how is None or how.expand is not None:
        return
    projects, projects_out = projections
    queries, keys = (own_modules(module).get(name) for name in HEAD_NORMS)
    norms = None
    if isinstance(queries, NativeRMSNorm) and isinstance(keys, NativeRMSNorm):
        # where those of keys differ in more than their weights, the results will
        norms = HeadNorms(queries.weight.detach(), keys.weight.detach(), queries.epsilon, queries.adds_one)
    if not asked.table.takes(projects.out_features, projects_out.in_features, norms):
        return
    for is_turned in (True, False):
        if not is_turned or asked.table.takes_turns(asked.turns):
            yield AttentionPlan(asked.cache.layer, asked.table.width, projects, projects_out, norms, is_turned, how)


def _may_be_native(module: nn.Module) -> bool:
    """By its looks: nothing but packed projections, and perhaps norms of heads."""
    names = set(own_modules(module))
    norms = [module.get_submodule(name) for name in HEAD_NORMS if name in names]
    return (
        names.difference(HEAD_NORMS) == set(PROJECTIONS)
        and len(norms) in (0, len(HEAD_NORMS))
        and all(isinstance(each, NativeRMSNorm) for each in norms)
        and not own_parameters(module)
        and _projections(module) is not None
    )


def _projections(module: nn.Module) -> tuple[Native, Native] | None:
    *projections, projects_out = (module.get_submodule(name) for name in PROJECTIONS)
    projects = shared_linear(*projections)
    if not isinstance(projects, Native) or not isinstance(projects_out, Native):
        return None
    return projects, projects_out
