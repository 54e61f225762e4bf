"""Decoder layers of attention and a gated MLP, with their norms and residuals, in one call of a kernel.

Without it a layer takes some fifteen calls beside its linear layers. Each of them finds its code and tensors evicted
from the CPU's caches by the weights that were read in between.

Shapes: T rows of all sessions, D hidden size.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from splitlearn.backends.cpu.attention_metadata import kernel_params
from splitlearn.backends.cpu.fused_attention import AttentionPlan
from splitlearn.backends.cpu.fused_norms import FusedGatedMLP, FusedRMSNorm
from splitlearn.backends.cpu.kernels.structs import Descriptor, Layer, Layers, RowNorm
from splitlearn.backends.cpu.linear import Native
from splitlearn.backends.cpu.module_fusion import FusedModule, ModuleCall, replace_modules
from splitlearn.torch_private import own_modules

# which norms a layer has, in the order in which it defines them: before attention and MLP, as in Llama; after both, as
# in OLMo 2; around both, as in Gemma
_ORDERS = (
    ("pre_attention_norm", "pre_mlp_norm"),
    ("post_attention_norm", "post_mlp_norm"),
    ("pre_attention_norm", "post_attention_norm", "pre_mlp_norm", "post_mlp_norm"),
)


@dataclass(frozen=True)
class LayerPlan:
    """How the kernel computes one decoder layer.

    Attributes:
        descriptor: a `Layer` and the tensors that it points to.
        attention: of the layer.
    """

    descriptor: Descriptor
    attention: AttentionPlan

    @cached_property
    def single_layer(self) -> Layers:
        """This layer alone, in the form in which the kernel takes layers."""
        return Layers([self.descriptor])

    def run(self, call: ModuleCall) -> torch.Tensor | None:
        """Rows [1, T, D]; None where the kernels cannot compute this step's attention."""
        visible = call.attention.visible(call.mask)
        if visible.scattered:
            return None
        call.cache.layer = self.attention.layer
        cos_sin = call.cos_sin if self.attention.uses_rope else None
        return call.metadata.run_layers(self.single_layer, call.hidden, cos_sin, visible.first_T)


def fuse_layers(module: nn.Module, run: Callable[[], object]) -> int:
    """Fuses decoder layers inside `module` whose attention is fused; returns how many.

    Args:
        run: runs ragged steps through all of `module`, with rows of several sessions.
    """
    # the same kernels: a looser comparison would see little beside a large residual
    return replace_modules((each for each in module.modules() if _parts(each) is not None), _plans, run, torch.equal)


@dataclass(frozen=True)
class _Parts:
    attention: AttentionPlan
    gated: FusedGatedMLP
    norms: Sequence[FusedRMSNorm]


def _parts(module: nn.Module) -> _Parts | None:
    """The parts of a layer that may be fused, judged by its children; None for any other module."""
    children = list(own_modules(module).values())
    plans = [forward.plan for each in children if isinstance(forward := vars(each).get("forward"), FusedModule)]
    attentions = [plan for plan in plans if isinstance(plan, AttentionPlan)]
    gated = [each for each in children if isinstance(each, FusedGatedMLP)]
    norms = [each for each in children if isinstance(each, FusedRMSNorm)]
    is_whole = len(attentions) == len(gated) == 1 and len(children) == 2 + len(norms)
    if not is_whole:
        return None
    return _Parts(attentions[0], gated[0], norms)


def _plans(module: nn.Module, call: ModuleCall) -> Iterator[LayerPlan]:
    parts = _parts(module)
    linears = None if parts is None else parts.gated.linears
    if parts is None or linears is None or not _fits(parts, linears, call):
        return
    for names in _ORDERS:
        if len(names) == len(parts.norms):
            norms = dict(zip(names, parts.norms, strict=True))
            yield LayerPlan(_layer_descriptor(parts.attention, parts.gated, linears, norms), parts.attention)


def _fits(parts: _Parts, linears: tuple[Native, Native], call: ModuleCall) -> bool:
    """Whether all sizes agree, as the kernel's buffers require, and the kernel supports the rotary tables."""
    qkv_proj, o_proj = parts.attention.qkv_proj, parts.attention.o_proj
    widths = {qkv_proj.in_features, o_proj.out_features, linears[0].in_features, linears[1].out_features}
    widths.update(each.weight.shape[0] for each in parts.norms)
    fits_gates = linears[0].out_features == 2 * linears[1].in_features
    return (
        widths == {call.hidden.shape[-1]}
        and fits_gates
        and (not parts.attention.uses_rope or call.metadata.supports_rope(call.cos_sin))
    )


def _layer_descriptor(
    attention: AttentionPlan,
    gated: FusedGatedMLP,
    gates: tuple[Native, Native],
    norms: dict[str, FusedRMSNorm],
) -> Descriptor:
    width = attention.head_dim
    norms_D = {name: each.weight.detach() for name, each in norms.items()}
    n_heads = attention.o_proj.in_features // width
    linears = {
        "qkv_proj": attention.qkv_proj.descriptor,
        "o_proj": attention.o_proj.descriptor,
        "gate_up_proj": gates[0].descriptor,
        "down_proj": gates[1].descriptor,
    }
    softmax = kernel_params(attention.params, width)
    heads = attention.norms
    query_norm, key_norm = (RowNorm(), RowNorm()) if heads is None else heads.descriptors
    structure = Layer(
        **{name: each.structure for name, each in linears.items()},
        **{name: RowNorm(norms_D[name].data_ptr(), each.epsilon, each.unit_offset) for name, each in norms.items()},
        query_norm=query_norm,
        key_norm=key_norm,
        index=attention.layer,
        n_heads=n_heads,
        n_kv_heads=(attention.qkv_proj.out_features // width - n_heads) // 2,
        head_dim=width,
        attention=softmax.structure,
        uses_rope=attention.uses_rope,
        gate=gated.gate,
    )
    tensors = [*norms_D.values(), *softmax.tensors]
    if heads is not None:
        tensors += [heads.queries_d, heads.keys_d]
    return Descriptor(structure, (*tensors, *(each.tensors for each in linears.values())))
