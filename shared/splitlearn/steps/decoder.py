"""A decoder whose layers are all native, without what transformers does around them.

Masks, decorators and a call for each layer take as long as a layer's own work where they have to be fetched from memory
again in each step.

Shapes: T rows of all sessions, D hidden size.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import nn

from splitlearn.fused import hooks_inside
from splitlearn.hf.cache import cache_in
from splitlearn.hf.modeling import DECODER, DecoderParts, rotates_by_positions_alone, with_hidden
from splitlearn.kernels.structs import Layers
from splitlearn.kv.table import SessionTable
from splitlearn.steps.layers import LayerPlan
from splitlearn.steps.ragged import RaggedCache
from splitlearn.steps.standing_in import Asked, StandIn
from splitlearn.torch_private import own_modules, own_parameters


@dataclass(frozen=True)
class _Run:
    """Layers one behind the other, in one call; or, where somebody looks at them, called as modules."""

    modules: Sequence[nn.Module]
    layers: Layers | None


class DecoderStandIn:
    """Stands where the forward of a decoder was, which still runs where no kernel reads the sessions' rows.

    All of its layers see everything before them, by one rotation. It keeps their plans: of what is done to a layer
    later, only hooks are noticed.
    """

    def __init__(self, decoder: nn.Module) -> None:
        self._stock = decoder.forward
        self._parts = DecoderParts(decoder)
        self._layers = _layers(decoder)
        self._described = [_plan(layer).described for layer in self._layers]
        self._hooks = [hooks_inside(layer) for layer in self._layers]
        self._runs: list[_Run] = []
        self._watched: list[bool] = []

    def __call__(
        self,
        input_ids: torch.Tensor | None = None,
        *,
        inputs_embeds: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **others: Any,
    ) -> Any:
        """As transformers' decoders, of which only the first argument may come without its name."""
        cache = cache_in(others)
        table = cache.table if isinstance(cache, RaggedCache) else None
        is_more_asked = any(value is not None for value in others.values() if value is not cache)
        if table is None or position_ids is None or is_more_asked:
            inputs = {"input_ids": input_ids, "inputs_embeds": inputs_embeds, "position_ids": position_ids}
            return self._stock(**inputs, use_cache=use_cache, **others)
        if inputs_embeds is None:
            inputs_embeds = self._parts.embed(input_ids)
        turns = self._parts.rotation(inputs_embeds, position_ids)
        hidden_1TD = self._through(inputs_embeds, turns, position_ids, cache, table)
        return self._parts.output(hidden_1TD, cache)

    def _through(
        self, hidden_1TD: torch.Tensor, turns: Any, position_ids: torch.Tensor, cache: RaggedCache, table: SessionTable
    ) -> torch.Tensor:
        watched = [any(hooks) for hooks in self._hooks]
        if watched != self._watched:
            self._runs, self._watched = list(self._runs_of(watched)), watched
        for run in self._runs:
            if run.layers is not None:
                hidden_1TD = table.run_layers(run.layers, hidden_1TD, turns, None)
                continue
            for layer in run.modules:
                hidden_1TD = self._parts.layer(layer, hidden_1TD, position_ids, turns, cache)
        return hidden_1TD

    def _runs_of(self, watched: Sequence[bool]) -> Iterator[_Run]:
        each = zip(watched, self._layers, self._described, strict=True)
        for is_watched, group in groupby(each, key=lambda entry: entry[0]):
            _, modules, described = zip(*group, strict=True)
            yield _Run(modules, None if is_watched else Layers(described))


def make_decoder_native(decoder: nn.Module, run: Callable[[], Sequence[torch.Tensor]]) -> bool:
    """Gives a decoder a forward that calls little but kernels, if that gives the same; says whether it did.

    Args:
        run: ragged steps through it, with rows of several sessions; what came out.
    """
    if not _may_be_native(decoder):
        return False
    is_plain: list[bool] = []

    def note(_module: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        asked = Asked.of(*with_hidden(torch.empty(0), (), kwargs))
        is_plain.append(asked is not None and asked.rule is None and asked.table.takes_turns(asked.turns))

    hooks = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in _layers(decoder)]
    try:
        expected = run()
    finally:
        for hook in hooks:
            hook.remove()
    if not is_plain or not all(is_plain):
        return False
    decoder.forward = DecoderStandIn(decoder)
    is_same = False
    try:
        is_same = all(map(torch.equal, run(), expected))
    finally:
        if not is_same:
            del decoder.forward
    return is_same


def _may_be_native(decoder: nn.Module) -> bool:
    """By its looks: embedding, native layers, norm, and a rotation that needs nothing but rows and positions."""
    if set(own_modules(decoder)) != DECODER or own_parameters(decoder) or "forward" in vars(decoder):
        return False
    if not rotates_by_positions_alone(decoder):
        return False
    plans = [getattr(vars(layer).get("forward"), "plan", None) for layer in _layers(decoder)]
    return bool(plans) and all(isinstance(plan, LayerPlan) for plan in plans)


def _layers(decoder: nn.Module) -> list[nn.Module]:
    return list(decoder.get_submodule("layers").children())


def _plan(layer: nn.Module) -> LayerPlan:
    stand_in = vars(layer).get("forward")
    if not isinstance(stand_in, StandIn) or not isinstance(stand_in.plan, LayerPlan):
        raise TypeError(f"{type(layer).__name__} has no forward of ours")
    return stand_in.plan
