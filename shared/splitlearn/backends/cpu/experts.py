"""Mixtures of experts by our kernels: of the experts' weights only those are read that a step's rows have chosen.

A module is replaced where both give the same for random rows. So it works for any architecture whose experts are two
stacks of weights, and changes nothing in others.

Shapes: R rows, C choices of each, E experts, D width, I inner width, K inputs, N outputs, ... any leading dimensions.
"""

import inspect
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from splitlearn.backends.cpu.fused_norms import hooks_inside
from splitlearn.backends.cpu.huge_pages import Span
from splitlearn.backends.cpu.kernels import kernels
from splitlearn.backends.cpu.kernels.structs import ExpertsCall, Gate
from splitlearn.backends.cpu.linear.native import Native, NativeLinear
from splitlearn.backends.cpu.linear.stacked import StackedLinear
from splitlearn.hf.modeling import SILU, TANH_GELU
from splitlearn.torch_private import move_forward_hooks, own_modules, own_parameters

Kind = type[Native]

_UP, _DOWN = "gate_up_proj", "down_proj"
_UP_BIAS, _DOWN_BIAS = "gate_up_proj_bias", "down_proj_bias"
# rows, the numbers of the experts that each has chosen, and their shares
_ARGUMENTS = (
    ("hidden_states", "top_k_index", "top_k_weights"),
    ("hidden_states", "router_indices", "routing_weights"),
)
_ALPHAS, _LIMITS = ("alpha", "swiglu_alpha"), ("limit", "swiglu_limit")
# the last ones reach a gate's limit
_PROBE_SCALES = (1e-3, 0.1, 1.0, 10.0, 100.0, 1000.0)
# of a row's length: each of five operations in a row rounds by 2^-9 at most
_TOLERANCE = 2**-6


class NativeExperts(nn.Module):
    """Computes what an experts module does, with its own copy of the weights and no other (kernels/experts.c).

    A row's result is the same to the bit whatever other rows come with it.
    """

    def __init__(self, gate_up_proj: StackedLinear, down_proj: StackedLinear, gate: Gate) -> None:
        super().__init__()
        library = kernels()
        if library is None:
            raise RuntimeError("the native kernels do not run here: ask kernels() first")
        self._experts = library.experts
        self.gate_up_proj, self.down_proj, self.gate = gate_up_proj, down_proj, gate
        # modules are asked for their dtype and device through their parameters
        self.empty = nn.Parameter(torch.empty(0, dtype=torch.bfloat16), requires_grad=False)

    @property
    def spans(self) -> list[Span]:
        """Where the packed weights lie in memory."""
        return [self.gate_up_proj.span, self.down_proj.span]

    def forward(
        self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        """[..., D] to the same. A choice that is no expert's number adds nothing.

        Args:
            top_k_index: numbers of the experts that each row has chosen, [R, C].
            top_k_weights: their shares [R, C].
        """
        width = self.gate_up_proj.in_features
        if hidden_states.dtype is not torch.bfloat16 or hidden_states.shape[-1] != width:
            found = f"{hidden_states.dtype} {list(hidden_states.shape)}"
            raise RuntimeError(f"expected bf16 [..., {width}], found {found}")
        rows = hidden_states.contiguous()
        n_rows, n_choices = rows.numel() // width, top_k_index.shape[-1]
        if top_k_index.shape != top_k_weights.shape or top_k_index.numel() != n_rows * n_choices:
            found = f"{list(top_k_index.shape)} and {list(top_k_weights.shape)}"
            raise RuntimeError(f"expected choices and shares of {n_rows} rows, found {found}")
        choices_RC = top_k_index.to(torch.int64).contiguous()
        shares_RC = top_k_weights.float().contiguous()
        output = torch.empty_like(rows)
        addresses = (tensor.data_ptr() for tensor in (rows, choices_RC, shares_RC, output))
        sizes = n_rows, n_choices, self.gate_up_proj.count
        linears = self.gate_up_proj.structure, self.down_proj.structure
        self._experts(ExpertsCall(*addresses, *sizes, *linears, self.gate, torch.get_num_threads()))
        return output

    def extra_repr(self) -> str:
        return f"n_experts={self.gate_up_proj.count}, {self.gate_up_proj}, {self.down_proj}"


@torch.inference_mode()
def pack_experts(module: nn.Module, kinds: Sequence[type[nn.Module]]) -> list[NativeExperts]:
    """Replaces, in place, the experts modules that our kernels compute, one after the other, and frees their weights.

    Args:
        kinds: of linear layers that may be made of the weights; of those that support them the first is taken.
    """
    if kernels() is None:
        return []
    replaced: dict[nn.Module, NativeExperts] = {}
    for parent in list(module.modules()):
        for name, child in own_modules(parent).items():
            if child is not None and child not in replaced:
                ours = _native(child, kinds)
                if ours is None:
                    continue
                replaced[child] = ours
                move_forward_hooks(child, ours)
                # other references to the module must not keep the weights in memory
                own_parameters(child).clear()
            if child in replaced:
                own_modules(parent)[name] = replaced[child]
    return list(replaced.values())


def count_experts(module: nn.Module) -> tuple[int, int]:
    """How many experts modules are inside `module`, and how many of them our kernels compute."""
    n_native = sum(isinstance(each, NativeExperts) for each in module.modules())
    stacks = (own_parameters(each).get(_DOWN) for each in module.modules())
    return n_native + sum(stack is not None and stack.ndim > 2 for stack in stacks), n_native


@dataclass(frozen=True)
class _Weights:
    """The weights of an experts module, as views of its own.

    Attributes:
        gate_up_END: of gates and what they are multiplied by, N = 2 I.
        down_EDI: back to the width.
        gate_up_EN: biases, or None.
        down_ED: biases, or None.
        is_interleaved: each gate is followed by what it is multiplied by; else all gates come first.
    """

    gate_up_END: torch.Tensor  # noqa: N815 - a shape
    down_EDI: torch.Tensor  # noqa: N815 - a shape
    gate_up_EN: torch.Tensor | None  # noqa: N815 - a shape
    down_ED: torch.Tensor | None  # noqa: N815 - a shape
    is_interleaved: bool = False

    @classmethod
    def of(cls, module: nn.Module) -> "_Weights | None":
        """None for a module whose parameters are others; a stack may have its inputs before its outputs."""
        own = {name: each.detach() for name, each in own_parameters(module).items() if each is not None}
        gate_up, down = own.get(_UP), own.get(_DOWN)
        if not own.keys() <= {_UP, _DOWN, _UP_BIAS, _DOWN_BIAS} or gate_up is None or down is None:
            return None
        if gate_up.ndim != 3 or down.ndim != 3 or any(tensor.dtype is not torch.bfloat16 for tensor in own.values()):
            return None
        if gate_up.shape[1] != 2 * down.shape[2]:
            gate_up, down = gate_up.transpose(1, 2), down.transpose(1, 2)
        n_experts, width, n_inner = down.shape
        biases = own.get(_UP_BIAS), own.get(_DOWN_BIAS)
        fits = gate_up.shape == (n_experts, 2 * n_inner, width) and all(
            bias is None or bias.shape == (n_experts, n) for bias, n in zip(biases, (2 * n_inner, width), strict=True)
        )
        return cls(gate_up, down, *biases) if fits else None

    def stacked(self, kind: Kind, experts: Sequence[int]) -> tuple[StackedLinear, StackedLinear]:
        """Packed copies of some experts' weights, numbered anew."""
        order = torch.arange(self.gate_up_END.shape[1])
        if self.is_interleaved:
            order = order.view(-1, 2).t().flatten()
        gates = (
            (self.gate_up_END[expert][order], None if self.gate_up_EN is None else self.gate_up_EN[expert][order])
            for expert in experts
        )
        downs = ((self.down_EDI[expert], None if self.down_ED is None else self.down_ED[expert]) for expert in experts)
        return StackedLinear(kind, gates, len(experts)), StackedLinear(kind, downs, len(experts))


def _native(module: nn.Module, kinds: Sequence[type[nn.Module]]) -> NativeExperts | None:
    """What computes the same as `module`, or None."""
    weights = _Weights.of(module)
    children = [child for child in own_modules(module).values() if child is not None]
    if weights is None or tuple(inspect.signature(module.forward).parameters) not in _ARGUMENTS:
        return None
    if any(any(hooks_inside(child)) or list(child.parameters()) for child in children):
        return None
    kind = _kind(weights, kinds)
    plan = None if kind is None else next(_agreeing(module, weights), None)
    if kind is None or plan is None:
        return None
    chosen, gate = plan
    return NativeExperts(*chosen.stacked(kind, range(chosen.down_EDI.shape[0])), gate)


def _kind(weights: _Weights, kinds: Sequence[type[nn.Module]]) -> Kind | None:
    pair = weights.gate_up_END[0], weights.down_EDI[0]
    stackable = (kind for kind in kinds if issubclass(kind, Native))
    return next((kind for kind in stackable if all(map(kind.supports, pair))), None)


def _agreeing(module: nn.Module, weights: _Weights) -> Iterator[tuple[_Weights, Gate]]:
    """How `module` may be computed, so that unrounded weights of its first and its last expert give what it gives."""
    gates = list(_gates(module))
    if not gates or not NativeLinear.supports(weights.down_EDI[0]):
        return
    last = weights.down_EDI.shape[0] - 1
    experts = sorted({0, last})
    dice = torch.Generator().manual_seed(0)
    n_rows = len(_PROBE_SCALES)
    rows_RD = torch.randn(n_rows, weights.down_EDI.shape[1], generator=dice) * torch.tensor(_PROBE_SCALES)[:, None]
    shares_RC = torch.rand(n_rows, len(experts), generator=dice).bfloat16()
    places_RC = torch.stack([torch.arange(len(experts)).roll(row) for row in range(n_rows)])
    # without the module's hooks, which stay
    expected_RD = module.forward(rows_RD.bfloat16(), torch.tensor(experts)[places_RC], shares_RC)
    for is_interleaved in (False, True):
        order = _Weights(weights.gate_up_END, weights.down_EDI, weights.gate_up_EN, weights.down_ED, is_interleaved)
        stacks = order.stacked(NativeLinear, experts)
        for gate in gates:
            if _is_same(NativeExperts(*stacks, gate)(rows_RD.bfloat16(), places_RC, shares_RC), expected_RD):
                yield order, gate


def _is_same(found_RD: torch.Tensor, expected_RD: torch.Tensor) -> bool:
    """Whether the rows of both are the same, but for what they lose where both round to bf16 between operations."""
    off_R = (found_RD.double() - expected_RD.double()).norm(dim=1)
    return bool((off_R <= _TOLERANCE * expected_RD.double().norm(dim=1)).all())


def _gates(module: nn.Module) -> Iterator[Gate]:
    """What may open the units, by the module's activation and its numbers; with a limit first, if it has one."""
    act = own_modules(module).get("act_fn")
    if isinstance(act, TANH_GELU):
        yield Gate.plain(is_gelu=True)
    if act is None or isinstance(act, SILU):
        limits = (*_numbers(module, _LIMITS), 0.0)
        alphas = (*_numbers(module, _ALPHAS), 1.0)
        for limit, alpha, offset in itertools.product(limits, alphas, (0.0, 1.0)):
            yield Gate(0, alpha, limit, offset)


def _numbers(module: nn.Module, names: Sequence[str]) -> tuple[float, ...]:
    named = (getattr(module, name, None) for name in names)
    return tuple({float(number): None for number in named if isinstance(number, int | float) and 0 < number < 1e30})
