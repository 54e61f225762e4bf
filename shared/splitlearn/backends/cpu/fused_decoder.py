"""A decoder whose layers are all fused, without transformers' code around them.

Masks, decorators and a call per layer take as long as a layer's own work, because their code and data are fetched from
memory again in each step.

Shapes: T rows of all sessions, D hidden size.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import nn

from splitlearn.attention.ragged import RaggedCache
from splitlearn.backends.cpu.attention_metadata import AttentionMetadata
from splitlearn.backends.cpu.contiguous_attention import ContiguousAttention
from splitlearn.backends.cpu.fused_layers import LayerPlan
from splitlearn.backends.cpu.fused_norms import hooks_inside
from splitlearn.backends.cpu.kernels.structs import Layers
from splitlearn.backends.cpu.module_fusion import FusedModule, ModuleCall
from splitlearn.hf.cache import cache_in
from splitlearn.hf.modeling import DECODER, DecoderParts, rotates_by_positions_alone, with_hidden
from splitlearn.torch_private import own_modules, own_parameters


@dataclass(frozen=True)
class _Run:
    """Consecutive layers, run in one call; or, where they have hooks, called as modules."""

    modules: Sequence[nn.Module]
    layers: Layers | None


class FusedDecoder:
    """Replaces the forward of a decoder, which still runs where our kernels cannot read the sessions.

    All of its layers have a causal mask and share one rotary embedding. It keeps their plans: of later changes to a
    layer it notices hooks alone.
    """

    def __init__(self, decoder: nn.Module) -> None:
        self._stock = decoder.forward
        self._parts = DecoderParts(decoder)
        self._layers = _layers(decoder)
        self._descriptors = [_plan(layer).descriptor for layer in self._layers]
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
        """As transformers' decoders, where only the first argument is positional."""
        cache = cache_in(others)
        metadata = _metadata(cache)
        has_more = any(value is not None for value in others.values() if value is not cache)
        if metadata is None or position_ids is None or has_more:
            inputs = {"input_ids": input_ids, "inputs_embeds": inputs_embeds, "position_ids": position_ids}
            return self._stock(**inputs, use_cache=use_cache, **others)
        if inputs_embeds is None:
            inputs_embeds = self._parts.embed(input_ids)
        cos_sin = self._parts.rotation(inputs_embeds, position_ids)
        hidden_1TD = self._through(inputs_embeds, cos_sin, position_ids, cache, metadata)
        return self._parts.output(hidden_1TD, cache)

    def _through(
        self,
        hidden_1TD: torch.Tensor,
        cos_sin: Any,
        position_ids: torch.Tensor,
        cache: RaggedCache,
        metadata: AttentionMetadata,
    ) -> torch.Tensor:
        watched = [any(hooks) for hooks in self._hooks]
        if watched != self._watched:
            self._runs, self._watched = list(self._runs_of(watched)), watched
        for run in self._runs:
            if run.layers is not None:
                hidden_1TD = metadata.run_layers(run.layers, hidden_1TD, cos_sin, None)
                continue
            for layer in run.modules:
                hidden_1TD = self._parts.layer(layer, hidden_1TD, position_ids, cos_sin, cache)
        return hidden_1TD

    def _runs_of(self, watched: Sequence[bool]) -> Iterator[_Run]:
        each = zip(watched, self._layers, self._descriptors, strict=True)
        for is_watched, group in groupby(each, key=lambda entry: entry[0]):
            _, modules, descriptors = zip(*group, strict=True)
            yield _Run(modules, None if is_watched else Layers(descriptors))


def fuse_decoder(decoder: nn.Module, run: Callable[[], Sequence[torch.Tensor]]) -> bool:
    """Fuses a decoder if that gives the same outputs; returns whether it is fused.

    Args:
        run: runs ragged steps through it, with rows of several sessions; returns their outputs.
    """
    if isinstance(vars(decoder).get("forward"), FusedDecoder):
        return True
    if not _may_be_native(decoder):
        return False
    is_plain: list[bool] = []

    def note(_module: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        call = ModuleCall.of(*with_hidden(torch.empty(0), (), kwargs))
        is_plain.append(call is not None and call.mask is None and call.metadata.supports_rope(call.cos_sin))

    hooks = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in _layers(decoder)]
    try:
        expected = run()
    finally:
        for hook in hooks:
            hook.remove()
    if not is_plain or not all(is_plain):
        return False
    decoder.forward = FusedDecoder(decoder)
    is_same = False
    try:
        is_same = all(map(torch.equal, run(), expected))
    finally:
        if not is_same:
            del decoder.forward
    return is_same


def _may_be_native(decoder: nn.Module) -> bool:
    """Whether it is an embedding, fused layers, a norm, and a rotary embedding of rows and positions, and no more."""
    if set(own_modules(decoder)) != DECODER or own_parameters(decoder) or "forward" in vars(decoder):
        return False
    if not rotates_by_positions_alone(decoder):
        return False
    plans = [getattr(vars(layer).get("forward"), "plan", None) for layer in _layers(decoder)]
    return bool(plans) and all(isinstance(plan, LayerPlan) for plan in plans)


def _metadata(cache: Any) -> AttentionMetadata | None:
    attention = cache.step if isinstance(cache, RaggedCache) else None
    return attention.metadata if isinstance(attention, ContiguousAttention) else None


def _layers(decoder: nn.Module) -> list[nn.Module]:
    return list(decoder.get_submodule("layers").children())


def _plan(layer: nn.Module) -> LayerPlan:
    stand_in = vars(layer).get("forward")
    if not isinstance(stand_in, FusedModule) or not isinstance(stand_in.plan, LayerPlan):
        raise TypeError(f"{type(layer).__name__} is not fused")
    return stand_in.plan
