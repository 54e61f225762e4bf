"""A part whose layers are all fused, run without transformers' code around them.

Masks, decorators, hooks and a call per module take as long as a layer's own work, because their code and data are
fetched from memory again in each step.

Shapes: T rows of all sessions, D hidden size.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import nn

from splitlearn.attention.sequence_slice import SequenceSlice
from splitlearn.backends.cpu.contiguous_attention import ContiguousAttention
from splitlearn.backends.cpu.contiguous_kv import ContiguousKVCache
from splitlearn.backends.cpu.fused_layers import LayerPlan
from splitlearn.backends.cpu.fused_norms import hooks_inside
from splitlearn.backends.cpu.huge_pages import prefer_huge_pages
from splitlearn.backends.cpu.kernels.structs import Layers
from splitlearn.backends.cpu.linear.screen import Screen
from splitlearn.backends.cpu.module_fusion import FusedModule, ModuleCall
from splitlearn.backends.cpu.rotary_table import RotaryTable
from splitlearn.hf.modeling import DECODER, DecoderParts, rotates_by_positions_alone, with_hidden
from splitlearn.model.part import Part
from splitlearn.torch_private import own_modules, own_parameters

# of more rows the products take as long as reading the whole head once
_MOST_SCREENED_ROWS: Final = 3


class FusedPart:
    """Runs the steps of a part whose decoder is an embedding, fused layers with a causal mask, one rotary embedding and
    a norm. It keeps the layers' plans: of later changes to a module it notices hooks alone.
    """

    def __init__(self, part: Part, plans: Sequence[LayerPlan]) -> None:
        self._begins = part.spec.begin
        self._children = DecoderParts(_decoder(part))
        self._head = part.model.get_output_embeddings()
        self._screen = Screen(self._head) if part.screens_head and Screen.supports(self._head) else None
        if self._screen is not None:
            prefer_huge_pages([self._screen.span])
        self._layers = Layers([plan.descriptor for plan in plans])
        row_1TD = torch.empty(1, 1, part.hidden_size, dtype=part.dtype)
        self._table = RotaryTable(self._children.rotation, row_1TD, part.context_length)
        self._hooks, self._n_own_hooks = hooks_inside(part.model), part.n_own_hooks

    def run(
        self,
        rows: torch.Tensor,
        sessions: Sequence[SequenceSlice[ContiguousKVCache]],
        wanted: Sequence[int] | None,
        position_offset: int,
        n_likeliest: int | None,
    ) -> torch.Tensor | None:
        """As `AttentionBackend.run_step`; None where somebody has hooks on a module, which would not be called."""
        if sum(map(len, self._hooks)) > self._n_own_hooks:
            return None
        metadata = ContiguousAttention(sessions).metadata
        if metadata is None:
            return None
        cos_sin = self._table.cos_sin([(start + position_offset, count) for _, start, count in sessions])
        hidden_TD = self._children.embed(rows) if self._begins else rows
        hidden_TD = metadata.run_layers(self._layers, hidden_TD[None], cos_sin, None)[0]
        if wanted is None:
            return hidden_TD
        if len(wanted) < hidden_TD.shape[0]:
            hidden_TD = hidden_TD[list(wanted)]
        hidden_TD = self._children.norm(hidden_TD)
        if n_likeliest is not None and self._screen is not None and 0 < hidden_TD.shape[0] <= _MOST_SCREENED_ROWS:
            logits_TV = self._screen.likeliest(hidden_TD, n_likeliest)
            if logits_TV is not None:
                return logits_TV
        return torch.as_tensor(self._head(hidden_TD))


def fusible(part: Part, run: Callable[[], object]) -> FusedPart | None:
    """What may run the steps of a part, if it gives the same results; None for a part that has more to it.

    Args:
        run: runs ragged steps through the part, with rows of several sessions.
    """
    plans = _plans(part)
    if not plans:
        return None
    is_plain: list[bool] = []

    def note(_module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        call = ModuleCall.of(*with_hidden(torch.empty(0), args, kwargs))
        is_plain.append(call is not None and call.mask is None and call.metadata.supports_rope(call.cos_sin))

    hooks = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in _layers(part)]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return FusedPart(part, plans) if is_plain and all(is_plain) else None


def _plans(part: Part) -> list[LayerPlan]:
    """Of the layers; none unless the decoder is an embedding, fused layers, a norm, a rotation, and no more."""
    decoder = _decoder(part)
    if set(own_modules(decoder)) != DECODER or own_parameters(decoder) or not rotates_by_positions_alone(decoder):
        return []
    forwards = [vars(layer).get("forward") for layer in _layers(part)]
    plans = [each.plan for each in forwards if isinstance(each, FusedModule) and isinstance(each.plan, LayerPlan)]
    return plans if len(plans) == len(forwards) else []


def _decoder(part: Part) -> nn.Module:
    decoder: nn.Module = part.model.get_submodule(part.layout.decoder)
    return decoder


def _layers(part: Part) -> list[nn.Module]:
    return list(_decoder(part).get_submodule("layers").children())
