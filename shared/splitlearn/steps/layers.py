"""Decoder layers of attention and a gated unit, each between norms and beside its residual, in one call of a kernel.

Beside its linear layers a layer takes some fifteen calls else, and each of them finds its code and its tensors gone
from the caches that the weights have passed through.

Shapes: T rows of all sessions, D hidden size.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from splitlearn.fused import NativeGatedMLP, NativeRMSNorm
from splitlearn.kernels.structs import Descriptor, Layer, Layers, RowNorm
from splitlearn.linear import Native
from splitlearn.steps.attention import AttentionPlan
from splitlearn.steps.rows import PieceRows
from splitlearn.steps.standing_in import Asked, StandIn, put_stand_ins
from splitlearn.torch_private import own_modules

# where the norms stand that a layer has, in the order in which it names them: before attention and gates, as in Llama;
# after both, as in OLMo 2; around both, as in Gemma
_ORDERS = (
    ("pre_attention_norm", "pre_mlp_norm"),
    ("post_attention_norm", "post_mlp_norm"),
    ("pre_attention_norm", "post_attention_norm", "pre_mlp_norm", "post_mlp_norm"),
)


@dataclass(frozen=True)
class LayerPlan:
    """What one decoder layer does, as the kernel reads it.

    Attributes:
        described: a `Layer`, with all that it names.
        attention: of the layer.
    """

    described: Descriptor
    attention: AttentionPlan

    @cached_property
    def alone(self) -> Layers:
        """Just this layer, as the kernel takes layers."""
        return Layers([self.described])

    def run(self, asked: Asked) -> torch.Tensor | None:
        """[1, T, D] to the same; None where attention needs more than the kernels."""
        rows = asked.cache.rows
        seen = rows.seen(asked.rule) if isinstance(rows, PieceRows) else None
        if seen is None or seen.missing:
            return None
        asked.cache.enter(self.attention.layer)
        turns = asked.turns if self.attention.is_turned else None
        return asked.table.run_layers(self.alone, asked.hidden, turns, seen.starts_T)


def make_layers_native(module: nn.Module, run: Callable[[], object]) -> int:
    """Gives decoder layers inside `module` a forward in one call; returns how many. Their attention must be native.

    Args:
        run: ragged steps through all of `module`, with rows of several sessions.
    """
    # the same kernels: a looser comparison would see little beside a large residual
    return put_stand_ins((each for each in module.modules() if _parts(each) is not None), _plans, run, torch.equal)


@dataclass(frozen=True)
class _Parts:
    attention: AttentionPlan
    gated: NativeGatedMLP
    norms: Sequence[NativeRMSNorm]


def _parts(module: nn.Module) -> _Parts | None:
    """Of what may be such a layer by its looks; None if it is none."""
    children = list(own_modules(module).values())
    plans = [forward.plan for each in children if isinstance(forward := vars(each).get("forward"), StandIn)]
    attentions = [plan for plan in plans if isinstance(plan, AttentionPlan)]
    gated = [each for each in children if isinstance(each, NativeGatedMLP)]
    norms = [each for each in children if isinstance(each, NativeRMSNorm)]
    is_whole = len(attentions) == len(gated) == 1 and len(children) == 2 + len(norms)
    if not is_whole:
        return None
    return _Parts(attentions[0], gated[0], norms)


def _plans(module: nn.Module, asked: Asked) -> Iterator[LayerPlan]:
    parts = _parts(module)
    linears = None if parts is None else parts.gated.linears
    if parts is None or linears is None or not _fits(parts, linears, asked):
        return
    for names in _ORDERS:
        if len(names) == len(parts.norms):
            norms = dict(zip(names, parts.norms, strict=True))
            yield LayerPlan(_described(parts.attention, parts.gated, linears, norms), parts.attention)


def _fits(parts: _Parts, linears: tuple[Native, Native], asked: Asked) -> bool:
    """Whether all are of one width, as memory between them is made for, and positions are turned as attention does."""
    projects, projects_out = parts.attention.projects, parts.attention.projects_out
    widths = {projects.in_features, projects_out.out_features, linears[0].in_features, linears[1].out_features}
    widths.update(each.weight.shape[0] for each in parts.norms)
    fits_gates = linears[0].out_features == 2 * linears[1].in_features
    return (
        widths == {asked.hidden.shape[-1]}
        and fits_gates
        and (not parts.attention.is_turned or asked.table.takes_turns(asked.turns))
    )


def _described(
    attention: AttentionPlan,
    gated: NativeGatedMLP,
    gates: tuple[Native, Native],
    norms: dict[str, NativeRMSNorm],
) -> Descriptor:
    width = attention.width
    norms_D = {name: each.weight.detach() for name, each in norms.items()}
    n_heads = attention.projects_out.in_features // width
    linears = {
        "qkv_proj": attention.projects.described,
        "o_proj": attention.projects_out.described,
        "gate_up_proj": gates[0].described,
        "down_proj": gates[1].described,
    }
    how = attention.how.rules.described(width)
    heads = attention.norms
    query_norm, key_norm = (RowNorm(), RowNorm()) if heads is None else heads.described
    structure = Layer(
        **{name: each.structure for name, each in linears.items()},
        **{name: RowNorm(norms_D[name].data_ptr(), each.epsilon, each.adds_one) for name, each in norms.items()},
        query_norm=query_norm,
        key_norm=key_norm,
        index=attention.layer,
        n_heads=n_heads,
        n_kv_heads=(attention.projects.out_features // width - n_heads) // 2,
        head_dim=width,
        attention=how.structure,
        uses_rope=attention.is_turned,
        is_gelu=gated.is_gelu,
    )
    tensors = [*norms_D.values(), *how.tensors]
    if heads is not None:
        tensors += [heads.queries_d, heads.keys_d]
    return Descriptor(structure, (*tensors, *(each.tensors for each in linears.values())))
