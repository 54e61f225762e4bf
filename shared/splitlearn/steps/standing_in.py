"""Other forwards for modules, put in place where a module was asked and ours gave the same.

So this holds for any architecture that has such modules, and changes nothing in the others.

Shapes: T rows of all sessions, D hidden size.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from splitlearn.fused import hooks_inside
from splitlearn.hf.cache import cache_in
from splitlearn.hf.modeling import hidden_in, mask_in, rotation_in
from splitlearn.kv.table import SessionTable
from splitlearn.steps.ragged import RaggedCache
from splitlearn.steps.rows import MaskRule


@dataclass(frozen=True)
class Asked:
    """What a module is asked, in a step of which our kernels read the sessions' rows.

    Attributes:
        hidden: rows of all sessions [1, T, D].
        turns: what the model says of positions; mostly cosines and sines [1, T, n].
        rule: which rows a row may see; None: all before it.
        table: of `cache`.
    """

    hidden: torch.Tensor
    turns: Any
    rule: MaskRule | None
    cache: RaggedCache
    table: SessionTable

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> "Asked | None":
        """None where it is asked something else, or in another way."""
        cache = cache_in(kwargs)
        if not isinstance(cache, RaggedCache) or (table := cache.table) is None or len(args) > 1:
            return None
        hidden = hidden_in(args, kwargs)
        if not isinstance(hidden, torch.Tensor):
            return None
        return cls(hidden, rotation_in(kwargs), mask_in(kwargs), cache, table)


class Plan(Protocol):
    """How ours does what a module does."""

    def run(self, asked: Asked) -> torch.Tensor | None:
        """[1, T, D]; None where the module has to do it itself."""


class StandIn:
    """Stands where the forward of a module was, which still runs where the plan does not fit or somebody looks on.

    Args:
        plan: for what is asked of the module in a step.
        module: whose forward it replaces.
        in_a_tuple: the module gives its rows with weights of attention, of which there are none.
    """

    def __init__(self, plan: Plan, module: nn.Module, in_a_tuple: bool) -> None:
        self.plan = plan
        self._stock = module.forward
        self._in_a_tuple = in_a_tuple
        self._hooks = [hooks for child in module.children() for hooks in hooks_inside(child)]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As transformers' modules: rows [1, T, D] to the same."""
        asked = Asked.of(args, kwargs)
        output = None if asked is None or any(self._hooks) else self.plan.run(asked)
        if output is None:
            return self._stock(*args, **kwargs)
        return (output, None) if self._in_a_tuple else output


def put_stand_ins(
    modules: Iterator[nn.Module],
    plans: Callable[[nn.Module, Asked], Iterator[Plan]],
    run: Callable[[], object],
    agree: Callable[[torch.Tensor, torch.Tensor], bool],
) -> int:
    """Gives those of `modules` another forward of which a plan gave the same, each time; returns how many.

    Args:
        plans: what may be a module's, by its looks and by what it just did.
        run: ragged steps through all of them, with rows of several sessions.
        agree: whether two results are the same.
    """
    probes = {module: _Probe(plans, agree) for module in modules if _may_be_replaced(module)}
    if not probes:
        return 0
    hooks = [module.register_forward_hook(probe.compare, with_kwargs=True) for module, probe in probes.items()]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    agreed = {module: probe for module, probe in probes.items() if probe.agreed}
    for module, probe in agreed.items():
        module.forward = StandIn(probe.agreed[0], module, probe.in_a_tuple)
    return len(agreed)


def _may_be_replaced(module: nn.Module) -> bool:
    """Nobody has done so, or looks on at what runs inside. Who looks at the module itself is told as before."""
    return "forward" not in vars(module) and not any(any(hooks_inside(child)) for child in module.children())


class _Probe:
    """The plans that gave what the module itself gave whenever they gave anything, and did at least once."""

    def __init__(
        self, plans: Callable[[nn.Module, Asked], Iterator[Plan]], agree: Callable[[torch.Tensor, torch.Tensor], bool]
    ) -> None:
        self.in_a_tuple = False
        self._plans, self._agree = plans, agree
        # how often each plan gave the same; None before the module was asked
        self._times: list[tuple[Plan, int]] | None = None

    @property
    def agreed(self) -> list[Plan]:
        return [plan for plan, times in self._times or () if times]

    def compare(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """After the module's own forward: the same rows once more, by ours."""
        asked = Asked.of(args, kwargs)
        self.in_a_tuple = isinstance(output, tuple) and output[1:] == (None,)
        own = output[0] if self.in_a_tuple else output
        if asked is None or not isinstance(own, torch.Tensor):
            self._times = []
            return
        if self._times is None:
            self._times = [(plan, 0) for plan in self._plans(module, asked)]
        kept = _new_rows(asked.cache)
        expected = [own, *(rows.clone() for rows in kept)]
        times = []
        for plan, before in self._times:
            given = plan.run(asked)
            if given is None:
                times.append((plan, before))
            elif all(map(self._agree, [given, *kept], expected)):
                times.append((plan, before + 1))
        self._times = times
        for rows, own_rows in zip(kept, expected[1:], strict=True):
            rows.copy_(own_rows)


def _new_rows(cache: RaggedCache) -> list[torch.Tensor]:
    """What the sessions keep of this step's rows in the layer that was run last."""
    held = ((position, cache.held(index)) for index, position in enumerate(cache.positions))
    return [tensor[:, position:] for position, both in held for tensor in both]
