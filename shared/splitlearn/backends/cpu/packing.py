"""Replace the linear layers and experts of a filled module, and what stands between them; any architecture.

Shapes: K inputs, N outputs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from splitlearn.backends.cpu.experts import pack_experts
from splitlearn.backends.cpu.fused_norms import fuse
from splitlearn.backends.cpu.huge_pages import prefer_huge_pages
from splitlearn.backends.cpu.linear.int4 import Int4Linear, Int4Parameter, joined
from splitlearn.backends.cpu.linear.int8 import Int8Linear
from splitlearn.backends.cpu.linear.merged import MergedLinear, MergedLinearSlice
from splitlearn.backends.cpu.linear.native import NativeInt4Linear, NativeInt8Linear, NativeLinear
from splitlearn.backends.cpu.linear.packed import PackedLinear
from splitlearn.errors import BadDevice
from splitlearn.hf.modeling import SIBLINGS, linear_weight, weights_read
from splitlearn.torch_private import forward_hooks, move_forward_hooks, own_modules, own_parameters

Replacement = NativeLinear | NativeInt8Linear | NativeInt4Linear | PackedLinear | Int8Linear | Int4Linear
Kind = type[Replacement]
# of those that support a weight the first is the fastest
_KINDS: dict[str, tuple[Kind, ...]] = {
    "none": (NativeLinear, PackedLinear),
    "int8": (NativeInt8Linear, Int8Linear, PackedLinear),
    "int4": (NativeInt4Linear, Int4Linear, PackedLinear),
}
QUANTIZATIONS = tuple(_KINDS)
_SMALL_BYTES = 2**20


@dataclass(frozen=True)
class PackedBytes:
    """What `pack` did: how many linear layers and mixtures of experts it replaced, and the bytes of their weights."""

    n_linears: int
    n_experts: int
    n_bytes: int


def resolve_quantization(name: str) -> str:
    """`name` itself if it is one of `QUANTIZATIONS`.

    Raises:
        BadDevice: it is not.
    """
    if name not in QUANTIZATIONS:
        raise BadDevice(f"quantization {name!r} is unknown; choose one of {', '.join(QUANTIZATIONS)}")
    return name


def takes_int4(quantization: str) -> bool:
    """Whether `pack` with this quantization takes weights of 4 bits as they are (`Int4Parameter`)."""
    return quantization == "int4"


def pack(module: nn.Module, quantization: str = "none") -> PackedBytes:
    """Replaces, in place, every linear layer and experts module that gains by it, and frees their weights; fuses norms
    and gates.

    Modules on other devices than the CPU, and dtypes without a packed kernel here, stay as they are, and so do layers
    whose weight the model's code reads itself: unpacking it at each step would cost more than is gained. What is tied
    to a linear layer's weight, such as the embedding to the head, keeps its own copy.

    Args:
        module: a filled part or model, in the dtype that it will run in; only for inference.
        quantization: "none" keeps the values, "int8" rounds the weights to 8 bits with one scale per output, "int4" to
            4 bits with one scale for 32 inputs of an output. Weights that are in 4 bits already (`Int4Parameter`) stay
            what they are, and are dequantized for the others.

    Raises:
        BadDevice: not one of `QUANTIZATIONS`, or another than "none" on another device than the CPU.
    """
    resolve_quantization(quantization)
    if quantization != "none":
        _refuse_other_devices(module, quantization)
    if not takes_int4(quantization):
        _dequantize(module)
    replaced: dict[nn.Module, nn.Module] = {}
    made: list[Replacement] = []
    read = weights_read(module)
    for parent in list(module.modules()):
        # not named_children(), which names a module that hangs in two places once
        named = [(name, child) for name, child in own_modules(parent).items() if child is not None and name not in read]
        children = {name: child for name, child in named if linear_weight(child) is not None}
        for group in _groups(children):
            if not any(child in replaced for child in group):
                replaced.update(_fuse(group, quantization, made))
        for name, child in children.items():
            if child not in replaced:
                replaced[child] = _replace(child, quantization, made)
            own_modules(parent)[name] = replaced[child]
    _dequantize(module)
    _own_small_tensors(module)
    experts = pack_experts(module, _KINDS[quantization])
    fuse(module)
    spans = [*(linear.span for linear in made), *(span for each in experts for span in each.spans)]
    prefer_huge_pages(spans)
    n_linears = sum(old is not new for old, new in replaced.items())
    return PackedBytes(n_linears, len(experts), sum(span.n_bytes for span in spans))


def _refuse_other_devices(module: nn.Module, quantization: str) -> None:
    elsewhere = {str(tensor.device) for tensor in module.parameters() if tensor.device.type != "cpu"}
    if elsewhere:
        found = ", ".join(sorted(elsewhere))
        raise BadDevice(f"{quantization} weights run on the CPU only, the model is on {found}: use none")


def _dequantize(module: nn.Module) -> None:
    """Gives every parameter numbers."""
    for each in module.modules():
        for name, parameter in own_parameters(each).items():
            if isinstance(parameter, Int4Parameter):
                own_parameters(each)[name] = parameter.dequantized()


def _groups(children: dict[str, nn.Module]) -> Iterator[list[nn.Module]]:
    """Siblings that can share one weight."""
    for names in SIBLINGS:
        group = [children[name] for name in names if name in children]
        if len(group) == len(names) and len(set(group)) == len(names) and _is_alike(group):
            yield group


def _is_alike(group: Sequence[nn.Module]) -> bool:
    kinds = set()
    for linear in group:
        weight_NK = _required_weight(linear)
        kinds.add((weight_NK.shape[1], weight_NK.dtype, weight_NK.device, linear.bias is None))
    return len(kinds) == 1 and not any(hooks for linear in group for hooks in forward_hooks(linear))


def _required_weight(linear: nn.Module) -> torch.Tensor:
    weight_NK = linear_weight(linear)
    if weight_NK is None:
        raise TypeError(f"{type(linear).__name__} is no linear layer")
    return weight_NK


def _fuse(group: Sequence[nn.Module], quantization: str, made: list[Replacement]) -> dict[nn.Module, nn.Module]:
    """Each sibling's stand-in; none where their weight is not packed."""
    weights_NK = [_required_weight(linear) for linear in group]
    kind = _kind(weights_NK[0], quantization)
    # what torch computes gains nothing by it
    if kind is None or issubclass(kind, Int8Linear | Int4Linear) or (whole_NK := joined(weights_NK)) is None:
        return {}
    biases = [linear.bias for linear in group if isinstance(linear.bias, torch.Tensor)]
    whole = kind(whole_NK, torch.cat(biases) if biases else None)
    made.append(whole)
    widths = [weight.shape[0] for weight in weights_NK]
    parts = [None] * len(group) if whole.bias is None else torch.split(whole.bias, widths)
    fused = MergedLinear(whole, widths)
    stand_ins: dict[nn.Module, nn.Module] = {}
    for index, linear in enumerate(group):
        stand_ins[linear] = MergedLinearSlice(fused, index, whole.in_features, parts[index])
        _empty(linear)
    return stand_ins


def _replace(linear: nn.Module, quantization: str, made: list[Replacement]) -> nn.Module:
    """The layer's stand-in, or itself where there is no kernel for its weight."""
    weight_NK = _required_weight(linear)
    kind = _kind(weight_NK, quantization)
    if kind is None:
        return linear
    bias = linear.bias if isinstance(linear.bias, torch.Tensor) else None
    packed = kind(weight_NK, bias)
    made.append(packed)
    move_forward_hooks(linear, packed)
    _empty(linear)
    return packed


def _kind(weight_NK: torch.Tensor, quantization: str) -> Kind | None:
    return next((kind for kind in _KINDS[quantization] if kind.supports(weight_NK)), None)


def _empty(linear: nn.Module) -> None:
    # other references to the module must not keep the weight in memory
    own_parameters(linear).clear()


def _own_small_tensors(module: nn.Module) -> None:
    """Copies norms and biases out of the mapped files, whose mappings would stay as long as any tensor uses them."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.device.type == "cpu" and tensor.nbytes < _SMALL_BYTES:
            tensor.data = tensor.data.clone()
