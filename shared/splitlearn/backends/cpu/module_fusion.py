"""Replaces the forward of a module by a faster one, where both gave the same results in a few steps.

So it works for any architecture that has such modules, and changes nothing in others.

Shapes: T rows of all sessions, D hidden size.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from splitlearn.attention.mask import AttentionMask
from splitlearn.attention.ragged import RaggedCache
from splitlearn.backends.cpu.attention_metadata import AttentionMetadata
from splitlearn.backends.cpu.contiguous_attention import ContiguousAttention
from splitlearn.backends.cpu.fused_norms import hooks_inside
from splitlearn.hf.cache import cache_in
from splitlearn.hf.modeling import hidden_in, mask_in, rotation_in


@dataclass(frozen=True)
class ModuleCall:
    """A call of a module in a step whose sessions our kernels can read.

    Attributes:
        hidden: rows of all sessions [1, T, D].
        cos_sin: the model's rotary tables, mostly cosines and sines [1, T, n].
        mask: which rows a row may see; None: all earlier ones.
        cache: of the step.
        attention: of the step.
        metadata: of `attention`.
    """

    hidden: torch.Tensor
    cos_sin: Any
    mask: AttentionMask | None
    cache: RaggedCache
    attention: ContiguousAttention
    metadata: AttentionMetadata

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> "ModuleCall | None":
        """None for a call of another kind."""
        cache = cache_in(kwargs)
        if not isinstance(cache, RaggedCache) or len(args) > 1:
            return None
        attention = cache.step
        hidden = hidden_in(args, kwargs)
        if not isinstance(attention, ContiguousAttention) or not isinstance(hidden, torch.Tensor):
            return None
        if attention.metadata is None:
            return None
        return cls(hidden, rotation_in(kwargs), mask_in(kwargs), cache, attention, attention.metadata)


class FusionPlan(Protocol):
    """How a fused module computes what a module computes."""

    def run(self, call: ModuleCall) -> torch.Tensor | None:
        """Rows [1, T, D]; None where the module's own forward has to run."""


class FusedModule:
    """Replaces the forward of a module, which still runs where the plan does not fit or a hook is inside.

    Args:
        plan: computes the output.
        module: whose forward it replaces.
        in_a_tuple: the module returns (rows, attention weights), of which there are none.
    """

    def __init__(self, plan: FusionPlan, module: nn.Module, in_a_tuple: bool) -> None:
        self.plan = plan
        self._stock = module.forward
        self._in_a_tuple = in_a_tuple
        self._hooks = [hooks for child in module.children() for hooks in hooks_inside(child)]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As the module's own forward: rows [1, T, D] to rows of the same shape."""
        call = ModuleCall.of(args, kwargs)
        output = None if call is None or any(self._hooks) else self.plan.run(call)
        if output is None:
            return self._stock(*args, **kwargs)
        return (output, None) if self._in_a_tuple else output


def replace_modules(
    modules: Iterator[nn.Module],
    plans: Callable[[nn.Module, ModuleCall], Iterator[FusionPlan]],
    run: Callable[[], object],
    is_equal: Callable[[torch.Tensor, torch.Tensor], bool],
) -> int:
    """Replaces the forward of each module for which a plan gave the same results in every step.

    Those of a part that another runner runs too are replaced already.

    Args:
        plans: candidates for a module, by its children and by a call of it.
        run: runs ragged steps through all of them, with rows of several sessions.
        is_equal: whether two results are the same.

    Returns:
        How many of the modules have a forward by a plan now.
    """
    candidates = list(modules)
    n_before = sum(isinstance(vars(module).get("forward"), FusedModule) for module in candidates)
    checks = {module: _EquivalenceCheck(plans, is_equal) for module in candidates if _may_be_replaced(module)}
    if not checks:
        return n_before
    hooks = [module.register_forward_hook(check.compare, with_kwargs=True) for module, check in checks.items()]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    passed = {module: check for module, check in checks.items() if check.passed}
    for module, check in passed.items():
        module.forward = FusedModule(check.passed[0], module, check.in_a_tuple)
    return n_before + len(passed)


def _may_be_replaced(module: nn.Module) -> bool:
    """Whether its forward is its own, and no hook is inside it. Hooks of the module itself are called as before."""
    return "forward" not in vars(module) and not any(any(hooks_inside(child)) for child in module.children())


class _EquivalenceCheck:
    """Finds the plans that give what the module gives, whenever they give anything, and at least once."""

    def __init__(
        self,
        plans: Callable[[nn.Module, ModuleCall], Iterator[FusionPlan]],
        is_equal: Callable[[torch.Tensor, torch.Tensor], bool],
    ) -> None:
        self.in_a_tuple = False
        self._plans, self._is_equal = plans, is_equal
        # how often each plan gave the same; None before the first call
        self._times: list[tuple[FusionPlan, int]] | None = None

    @property
    def passed(self) -> list[FusionPlan]:
        return [plan for plan, times in self._times or () if times]

    def compare(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """A forward hook: runs each plan on the rows that the module has just run."""
        call = ModuleCall.of(args, kwargs)
        self.in_a_tuple = isinstance(output, tuple) and output[1:] == (None,)
        own = output[0] if self.in_a_tuple else output
        if call is None or not isinstance(own, torch.Tensor):
            self._times = []
            return
        if self._times is None:
            self._times = [(plan, 0) for plan in self._plans(module, call)]
        held = call.attention.stored_rows(call.cache.layer)
        own_held = [rows.clone() for rows in held]
        expected = [own, *_new_rows(call.cache)]
        times = []
        for plan, before in self._times:
            given = plan.run(call)
            if given is None:
                times.append((plan, before))
            elif all(map(self._is_equal, [given, *_new_rows(call.cache)], expected)):
                times.append((plan, before + 1))
        self._times = times
        for rows, own_rows in zip(held, own_held, strict=True):
            rows.copy_(own_rows)


def _new_rows(cache: RaggedCache) -> list[torch.Tensor]:
    """Keys and values of this step's rows in the current layer, per session."""
    held = ((position, cache.gather(index)) for index, position in enumerate(cache.positions))
    return [tensor[:, position:].clone() for position, both in held for tensor in both]
