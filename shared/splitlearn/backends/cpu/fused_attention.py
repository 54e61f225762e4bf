"""Attention modules of linear projections, by our kernels.

Head norms, rotary embedding, storing and attending take two calls in place of some forty small operations.

Shapes: T rows of all sessions, D hidden size.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from splitlearn.attention.params import AttentionParams
from splitlearn.attention.ragged import attend_rows
from splitlearn.backends.cpu.attention_metadata import HeadNorms
from splitlearn.backends.cpu.fused_norms import FusedRMSNorm, same_numbers
from splitlearn.backends.cpu.linear import Native
from splitlearn.backends.cpu.linear.merged import shared_linear
from splitlearn.backends.cpu.module_fusion import ModuleCall, replace_modules
from splitlearn.hf.modeling import HEAD_NORMS, PROJECTIONS
from splitlearn.torch_private import own_modules, own_parameters


@dataclass(frozen=True)
class AttentionPlan:
    """How our kernels compute one attention module.

    Attributes:
        layer: index of its layer in the cache.
        head_dim: numbers of a head.
        qkv_proj: projects to queries, keys and values in one linear layer.
        o_proj: projects back to the hidden size.
        norms: of the heads of queries and keys; None if there are none.
        uses_rope: whether queries and keys are rotated by their position.
        params: of its attention calls.
    """

    layer: int
    head_dim: int
    qkv_proj: Native
    o_proj: Native
    norms: HeadNorms | None
    uses_rope: bool
    params: AttentionParams

    def run(self, call: ModuleCall) -> torch.Tensor:
        """Rows [1, T, D] to rows of the same shape."""
        cache = call.cache
        cache.layer = self.layer
        projected = self.qkv_proj(call.hidden)
        cos_sin = call.cos_sin if self.uses_rope else None
        queries_HTd = call.metadata.rope_and_store(self.layer, projected[0], cos_sin, self.norms)
        output_THd = attend_rows(cache, queries_HTd, call.mask, self.params)
        return torch.as_tensor(self.o_proj(output_THd.flatten(1)[None]))


def fuse_attention(module: nn.Module, run: Callable[[], object]) -> int:
    """Gives attention modules inside `module` a forward by our kernels; returns params many.

    Args:
        run: ragged steps through all of `module`, with rows of several sessions.
    """
    return replace_modules((each for each in module.modules() if _may_be_native(each)), _plans, run, same_numbers)


def _plans(module: nn.Module, call: ModuleCall) -> Iterator[AttentionPlan]:
    projections, params = _projections(module), call.cache.params
    if projections is None or params is None or params.expand is not None:
        return
    qkv_proj, o_proj = projections
    queries, keys = (own_modules(module).get(name) for name in HEAD_NORMS)
    norms = None
    if isinstance(queries, FusedRMSNorm) and isinstance(keys, FusedRMSNorm):
        # if the two differ in more than their weights, the results will differ too
        norms = HeadNorms(queries.weight.detach(), keys.weight.detach(), queries.epsilon, queries.unit_offset)
    if not call.metadata.supports(qkv_proj.out_features, o_proj.in_features, norms):
        return
    for uses_rope in (True, False):
        if not uses_rope or call.metadata.supports_rope(call.cos_sin):
            yield AttentionPlan(call.cache.layer, call.metadata.head_dim, qkv_proj, o_proj, norms, uses_rope, params)


def _may_be_native(module: nn.Module) -> bool:
    """Whether its children are packed projections, with or without head norms, and nothing else."""
    names = set(own_modules(module))
    norms = [module.get_submodule(name) for name in HEAD_NORMS if name in names]
    return (
        names.difference(HEAD_NORMS) == set(PROJECTIONS)
        and len(norms) in (0, len(HEAD_NORMS))
        and all(isinstance(each, FusedRMSNorm) for each in norms)
        and not own_parameters(module)
        and _projections(module) is not None
    )


def _projections(module: nn.Module) -> tuple[Native, Native] | None:
    *projections, o_proj = (module.get_submodule(name) for name in PROJECTIONS)
    qkv_proj = shared_linear(*projections)
    if not isinstance(qkv_proj, Native) or not isinstance(o_proj, Native):
        return None
    return qkv_proj, o_proj
