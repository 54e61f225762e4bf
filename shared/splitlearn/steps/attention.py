"""Attention modules of queries, keys and values from linear layers, run by our kernels with little in between.

Norms of heads, rotated positions, keeping rows and attending take two calls in place of some forty small operations.
As in `splitlearn.fused`, a module gets another forward where both were asked and gave the same, so this holds for any
architecture that has such modules.

Shapes: T rows of all sessions, H heads, d width of a head, D hidden size.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from splitlearn.fused import NativeRMSNorm, has_hooks, same_numbers
from splitlearn.kv.table import HeadNorms
from splitlearn.linear import NativeInt8Linear, NativeLinear
from splitlearn.linear.siblings import shared_linear
from splitlearn.steps.ragged import RaggedCache, attend_rows
from splitlearn.steps.rows import How, MaskRule

_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
_HEAD_NORMS = ("q_norm", "k_norm")
Native = NativeLinear | NativeInt8Linear


@dataclass(frozen=True)
class AttentionPlan:
    """What one attention module does, between its linear layers, to the rows of one layer of the cache.

    Attributes:
        projects: to queries, keys and values at once.
        projects_out: back to the hidden size.
        norms: of the heads of queries and keys; None if there are none.
        is_turned: queries and keys are rotated by the position of their row.
        how: it asks for attention.
    """

    layer: int
    projects: Native
    projects_out: Native
    norms: HeadNorms | None
    is_turned: bool
    how: How

    def run(self, hidden_1TD: torch.Tensor, turns: Any, rule: MaskRule | None, cache: RaggedCache) -> torch.Tensor:
        """[1, T, D] to the same, in a step of which our kernels read the sessions' rows."""
        table = cache.enter(self.layer)
        projected = self.projects(hidden_1TD)
        queries_HTd = table.place_heads(self.layer, projected[0], turns if self.is_turned else None, self.norms)
        output_THd = attend_rows(cache, queries_HTd, rule, self.how)
        return torch.as_tensor(self.projects_out(output_THd.flatten(1)[None]))


class NativeAttention:
    """Stands in for the forward of one attention module, which still runs where no kernel reads the sessions' rows."""

    def __init__(self, plan: AttentionPlan, stock: Callable[..., Any]) -> None:
        self._plan, self._stock = plan, stock

    def __call__(
        self,
        *,
        hidden_states: torch.Tensor,
        position_embeddings: Any = None,
        attention_mask: Any = None,
        past_key_values: Any = None,
        **others: Any,
    ) -> Any:
        """[1, T, D] to the same and nothing more, as transformers' attention modules."""
        if isinstance(past_key_values, RaggedCache):
            output = self._plan.run(hidden_states, position_embeddings, attention_mask, past_key_values)
            return output, None
        return self._stock(
            hidden_states=hidden_states,
            position_embeddings=position_embeddings,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            **others,
        )


def make_attention_native(module: nn.Module, run: Callable[[], object]) -> int:
    """Gives attention modules inside `module` a forward by our kernels; returns how many.

    Args:
        run: ragged steps through all of `module`, with rows of several sessions.
    """
    asked = {each: _Asked() for each in module.modules() if _may_be_native(each)}
    if not asked:
        return 0
    hooks = [each.register_forward_hook(both.compare, with_kwargs=True) for each, both in asked.items()]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    found = {each: both.plans[0] for each, both in asked.items() if both.plans}
    for each, plan in found.items():
        each.forward = NativeAttention(plan, each.forward)
    return len(found)


class _Asked:
    """The plans that gave what the module itself gave, each time; None before the first."""

    plans: list[AttentionPlan] | None = None

    def compare(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """After the module's own forward: the same rows once more, by ours."""
        cache = kwargs.get("past_key_values")
        is_usual = not args and "hidden_states" in kwargs and isinstance(output, tuple) and output[1:] == (None,)
        if not is_usual or not isinstance(cache, RaggedCache) or cache.table is None:
            self.plans = []
            return
        hidden_1TD, turns = kwargs["hidden_states"], kwargs.get("position_embeddings")
        rule = kwargs.get("attention_mask")
        if self.plans is None:
            self.plans = list(_plans(module, cache, turns))
        kept = _new_rows(cache)
        expected = [output[0], *(rows.clone() for rows in kept)]
        agreed = []
        for plan in self.plans:
            found = [plan.run(hidden_1TD, turns, rule, cache), *kept]
            if all(map(same_numbers, found, expected)):
                agreed.append(plan)
        self.plans = agreed
        for rows, own in zip(kept, expected[1:], strict=True):
            rows.copy_(own)


def _plans(module: nn.Module, cache: RaggedCache, turns: Any) -> Iterator[AttentionPlan]:
    """What may be the module's, by its looks and by what it just did."""
    projections = _projections(module)
    if projections is None or cache.table is None or cache.how is None or not cache.how.is_plain:
        return
    projects, projects_out = projections
    queries, keys = (module._modules.get(name) for name in _HEAD_NORMS)
    norms = None
    if isinstance(queries, NativeRMSNorm) and isinstance(keys, NativeRMSNorm):
        # where those of keys differ in more than their weights, the results will
        norms = HeadNorms(queries.weight, keys.weight, queries.epsilon, queries.adds_one)
    if not cache.table.takes(projects.out_features, projects_out.in_features, norms):
        return
    for is_turned in (True, False):
        if not is_turned or cache.table.takes_turns(turns):
            yield AttentionPlan(cache.layer, projects, projects_out, norms, is_turned, cache.how)


def _may_be_native(module: nn.Module) -> bool:
    """By its looks: nothing but packed projections, and perhaps norms of heads."""
    names = set(module._modules)
    norms = [module.get_submodule(name) for name in _HEAD_NORMS if name in names]
    return (
        names.difference(_HEAD_NORMS) == set(_PROJECTIONS)
        and len(norms) in (0, len(_HEAD_NORMS))
        and all(isinstance(each, NativeRMSNorm) for each in norms)
        and not module._parameters
        and "forward" not in vars(module)
        and not has_hooks(module)
        and _projections(module) is not None
    )


def _projections(module: nn.Module) -> tuple[Native, Native] | None:
    *projections, projects_out = (module.get_submodule(name) for name in _PROJECTIONS)
    projects = shared_linear(*projections)
    if not isinstance(projects, Native) or not isinstance(projects_out, Native):
        return None
    return projects, projects_out


def _new_rows(cache: RaggedCache) -> list[torch.Tensor]:
    """What the sessions keep of this step's rows in the layer that was run last."""
    held = ((position, cache.held(index)) for index, position in enumerate(cache.positions))
    return [tensor[:, position:] for position, both in held for tensor in both]
