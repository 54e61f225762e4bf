"""Norms and gates in one pass each, in place of the five to eight operations that models write them in.

A module is replaced where both give the same for random rows. So it works for any architecture that has such modules,
under any name, and changes nothing in others.

Shapes: D width, ... any leading dimensions.
"""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from splitlearn.backends.cpu.kernels import kernels
from splitlearn.backends.cpu.kernels.structs import Gate, GateCall, RmsNormCall, RowNorm
from splitlearn.backends.cpu.linear import Native
from splitlearn.backends.cpu.linear.merged import shared_linear
from splitlearn.hf.modeling import GATED_MLP, SILU, TANH_GELU, norm_epsilon
from splitlearn.torch_private import forward_hooks, own_modules, own_parameters

_PROBE_ROWS = 5
# results are bf16 numbers that may differ in their last bit, where sums were added up in another order
_TOLERANCE = 2**-7


class FusedRMSNorm(nn.Module):
    """Root mean square norm of bf16 rows (Zhang & Sennrich 2019, arXiv 1910.07467), sums in fp32.

    Args:
        unit_offset: the weight is an offset to one, and the result is rounded once, as in Gemma; else the normed row is
            rounded before it is weighed, as in Llama.
    """

    def __init__(self, weight_D: torch.Tensor, epsilon: float, unit_offset: bool) -> None:
        super().__init__()
        library = kernels()
        if library is None:
            raise RuntimeError("the native kernels do not run here: ask kernels() first")
        self._norm = library.rms_norm
        self.weight = nn.Parameter(weight_D.detach(), requires_grad=False)
        self.epsilon, self.unit_offset = epsilon, unit_offset

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """[..., D] to the same."""
        rows = rows.contiguous()
        width = self.weight.shape[0]
        if rows.dtype is not torch.bfloat16 or rows.shape[-1] != width:
            raise RuntimeError(f"expected bf16 [..., {width}], found {rows.dtype} {list(rows.shape)}")
        output = torch.empty_like(rows)
        norm = RowNorm(self.weight.data_ptr(), self.epsilon, self.unit_offset)
        addresses, n_rows = (rows.data_ptr(), output.data_ptr()), rows.numel() // width
        self._norm(RmsNormCall(*addresses, n_rows, width, norm, torch.get_num_threads()))
        return output

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, eps={self.epsilon}, unit_offset={self.unit_offset}"


class FusedGatedMLP(nn.Module):
    """`down(silu(gate(x)) * up(x))` of bf16 rows (Shazeer 2020, arXiv 2002.05202) with the gate in one pass.

    Args:
        is_gelu: GELU, approximated by a tanh, stands in place of SiLU, as in Gemma.
    """

    def __init__(self, gate_proj: nn.Module, up_proj: nn.Module, down_proj: nn.Module, is_gelu: bool = False) -> None:
        super().__init__()
        library = kernels()
        if library is None:
            raise RuntimeError("the native kernels do not run here: ask kernels() first")
        self._gate = library.gate
        self.gate = Gate.plain(is_gelu)
        self.gate_proj, self.up_proj, self.down_proj = gate_proj, up_proj, down_proj
        self._both = shared_linear(gate_proj, up_proj)

    @property
    def linears(self) -> tuple[Native, Native] | None:
        """The merged gate and up projection, and the down projection; None unless our kernels run both."""
        both, down = self._both, self.down_proj
        return (both, down) if isinstance(both, Native) and isinstance(down, Native) else None

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """[..., D] to the same."""
        both = self._both(rows) if self._both is not None else torch.cat([self.gate_proj(rows), self.up_proj(rows)], -1)
        n_inner = both.shape[-1] // 2
        output = both.new_empty((*both.shape[:-1], n_inner))
        gates = both.data_ptr()
        addresses = gates, gates + n_inner * both.itemsize, output.data_ptr()
        sizes = output.numel() // n_inner, n_inner, 2 * n_inner
        self._gate(GateCall(*addresses, *sizes, self.gate, torch.get_num_threads()))
        return torch.as_tensor(self.down_proj(output))


def hooks_inside(module: nn.Module) -> list[Mapping[int, Any]]:
    """The hooks of `module` and of all modules in it, as live views: where one is not empty, replacing the module would
    skip a hook."""
    return [hooks for each in module.modules() for hooks in forward_hooks(each)]


@torch.inference_mode()
def fuse(module: nn.Module) -> int:
    """Replaces, in place, the norms and gated units that our kernels compute; returns how many.

    Only bf16 on the CPU, and only for inference.
    """
    if kernels() is None:
        return 0
    replaced: dict[nn.Module, nn.Module] = {}
    for parent in list(module.modules()):
        for name, child in own_modules(parent).items():
            if child is None or any(hooks_inside(child)):
                continue
            if child not in replaced:
                replaced[child] = next((ours for ours in _candidates(child) if _agree(child, ours)), child)
            own_modules(parent)[name] = replaced[child]
    return sum(old is not new for old, new in replaced.items())


def _candidates(module: nn.Module) -> Iterator[nn.Module]:
    """What may compute the same as `module`, by its looks."""
    if isinstance(module, FusedRMSNorm | FusedGatedMLP):
        return
    children = dict(module.named_children())
    own = set(own_parameters(module))
    epsilon = norm_epsilon(module)
    if epsilon is not None and not children and own == {"weight"}:
        weight_D = module.get_parameter("weight")
        if _is_ours(weight_D) and weight_D.ndim == 1:
            yield from (FusedRMSNorm(weight_D, epsilon, unit_offset) for unit_offset in (False, True))
    if set(children) == GATED_MLP and not own and isinstance(children["act_fn"], SILU + TANH_GELU):
        gate_proj, up_proj, down_proj = (children[name] for name in ("gate_proj", "up_proj", "down_proj"))
        yield FusedGatedMLP(gate_proj, up_proj, down_proj, isinstance(children["act_fn"], TANH_GELU))


def _agree(theirs: nn.Module, ours: nn.Module) -> bool:
    """Whether both give the same for random rows of several sizes, but for the last bit."""
    takes = [p for p in inspect.signature(theirs.forward).parameters.values() if p.default is p.empty]
    width = ours.weight.shape[0] if isinstance(ours, FusedRMSNorm) else getattr(theirs.gate_proj, "in_features", None)
    if len(takes) != 1 or not isinstance(width, int) or not all(_is_ours(each) for each in ours.parameters()):
        return False
    dice = torch.Generator().manual_seed(0)
    rows = torch.randn(1, _PROBE_ROWS, width, generator=dice) * torch.tensor([1e-3, 0.1, 1.0, 10.0, 100.0])[:, None]
    return same_numbers(ours(rows.bfloat16()), theirs(rows.bfloat16()))


def same_numbers(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether the rows [..., D] of both are the same, but for the last bit of a bf16 number."""
    if found.shape != expected.shape or found.dtype is not expected.dtype:
        return False
    size = expected.float().abs().amax(-1, keepdim=True)
    return bool(((found.float() - expected.float()).abs() <= _TOLERANCE * size).all())


def _is_ours(tensor: torch.Tensor) -> bool:
    return tensor.dtype is torch.bfloat16 and tensor.device.type == "cpu"
