import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.activations import GELUActivation, GELUTanh, NewGELUActivation

from splitlearn.backends.cpu.fused_norms import FusedGatedMLP, FusedRMSNorm, fuse
from splitlearn.backends.cpu.kernels import kernels
from splitlearn.backends.cpu.kernels.structs import Gate, GateCall
from support.tiny_models import random_model, tiny_config

pytestmark = pytest.mark.usefixtures("every_set")


class RMSNorm(nn.Module):
    """Spelled out as in Llama, or with what a test changes of it."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.rand(width).bfloat16() + 0.5), eps

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        normed = rows.float() * torch.rsqrt(rows.float().square().mean(-1, keepdim=True) + self.eps)
        return self.weight * normed.bfloat16()


@pytest.mark.parametrize("unit_offset", [False, True])
def test_a_norm_weighs_by_the_weight_or_by_one_more(unit_offset: bool) -> None:
    rows, weight_D = torch.randn(3, 40).bfloat16(), torch.rand(40).bfloat16()
    exact = rows.double() * torch.rsqrt(rows.double().square().mean(-1, keepdim=True) + 1e-5)
    exact = exact * (weight_D.double() + unit_offset)
    torch.testing.assert_close(FusedRMSNorm(weight_D, 1e-5, unit_offset)(rows).double(), exact, rtol=2**-6, atol=1e-6)


class CentredRMSNorm(RMSNorm):
    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return super().forward(rows - rows.mean(-1, keepdim=True))


class GroupedRMSNorm(RMSNorm):
    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        halves = rows.float().unflatten(-1, (2, -1))
        normed = halves * torch.rsqrt(halves.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * normed.flatten(-2).bfloat16()


class GatedRMSNorm(RMSNorm):
    def forward(self, rows: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        return super().forward(rows) * gate


class MLP(nn.Module):
    """Spelled out as in Llama, or with what a test changes of it."""

    def __init__(self, width: int = 32, inner: int = 48, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(width, inner), nn.Linear(width, inner)
        self.down_proj, self.act_fn = nn.Linear(inner, width), activation or nn.SiLU()
        self.bfloat16().requires_grad_(False)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(rows)) * self.up_proj(rows))


class HalvedMLP(MLP):
    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return super().forward(rows) / 2


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).bfloat16()


def kinds(model: nn.Module) -> set[str]:
    return {type(each).__name__ for each in model.modules()}


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.arange(3, 40)[None]).logits[0]


@pytest.mark.parametrize("width", [1, 15, 16, 17, 64, 200])
@pytest.mark.parametrize("n_rows", [1, 3, 400])
def test_a_norm_is_the_spelled_out_one_to_the_last_bit(width: int, n_rows: int) -> None:
    model, rows = nn.Sequential(RMSNorm(width)).requires_grad_(False), random(2, n_rows, width)
    expected = model(rows)
    assert fuse(model) == 1
    assert isinstance(model[0], FusedRMSNorm)
    found = model(rows)
    # rows whose sum comes out otherwise in its last bit may round otherwise
    assert (found != expected).float().mean() < 0.02
    torch.testing.assert_close(found, expected, rtol=2**-7, atol=0)


@pytest.mark.parametrize(
    "activation", [nn.SiLU(), GELUTanh(), NewGELUActivation()], ids=["silu", "gelu", "spelled out"]
)
@pytest.mark.parametrize("inner", [1, 16, 33, 4000])
def test_a_gated_unit_is_the_spelled_out_one(inner: int, activation: nn.Module) -> None:
    # where a unit has one output, a probe may find the rounding of a spelled out GELU too far from ours
    torch.manual_seed(0)
    model, rows = nn.Sequential(MLP(inner=inner, activation=activation)), random(2, 7, 32) * 20
    expected = model(rows)
    assert fuse(model) == 1
    assert isinstance(model[0], FusedGatedMLP)
    torch.testing.assert_close(model(rows), expected, rtol=2**-6, atol=2**-6 * expected.abs().max().item())


@pytest.mark.parametrize("is_gelu", [False, True], ids=["silu", "gelu"])
def test_a_gate_is_right_wherever_it_is_open_or_shut(is_gelu: bool) -> None:
    library = kernels()
    assert library is not None
    gates = torch.cat([torch.linspace(-200, 200, 4001), torch.tensor([0.0, -0.0, 3e38, -3e38, 1e-30])]).bfloat16()
    found, ones = torch.empty_like(gates), torch.ones_like(gates)
    addresses, n_gates = (gates.data_ptr(), ones.data_ptr(), found.data_ptr()), gates.numel()
    library.gate(GateCall(*addresses, 1, n_gates, n_gates, Gate.plain(is_gelu), 2))
    exact = functional.gelu(gates.double(), approximate="tanh") if is_gelu else functional.silu(gates.double())
    torch.testing.assert_close(found, exact.bfloat16(), rtol=2**-7, atol=1e-6 if is_gelu else 1e-36)


@pytest.mark.parametrize(
    "other",
    [
        CentredRMSNorm(32),
        GroupedRMSNorm(32),
        GatedRMSNorm(32),
        HalvedMLP(),
        MLP(activation=nn.GELU()),
        MLP(activation=GELUActivation()),
        RMSNorm(8).float(),
    ],
    ids=["centred", "grouped", "gated", "halved", "exact gelu", "exact gelu of transformers", "fp32"],
)
def test_what_computes_something_else_is_left_alone(other: nn.Module) -> None:
    model = nn.Sequential(other)
    assert fuse(model) == 0
    assert model[0] is other


def test_what_is_hooked_is_left_alone() -> None:
    model = nn.Sequential(MLP())
    model[0].act_fn.register_forward_hook(lambda _, __, output: output * 0)
    assert fuse(model) == 0


@pytest.mark.parametrize(
    ("architecture", "fused"),
    [
        ("llama", {"FusedRMSNorm", "FusedGatedMLP"}),
        ("qwen3", {"FusedRMSNorm", "FusedGatedMLP"}),
        ("gemma2", {"FusedRMSNorm", "FusedGatedMLP"}),
        ("gpt2", set()),
    ],
)
def test_models_say_the_same_with_what_was_fused(architecture: str, fused: set[str]) -> None:
    model = random_model(tiny_config(architecture)).bfloat16().eval()
    expected_TV = logits(model)
    fuse(model)
    assert {kind for kind in kinds(model) if kind.startswith("Fused")} == fused
    assert not [kind for kind in kinds(model) if fused and kind.endswith("RMSNorm") and kind != "FusedRMSNorm"]
    off_TV = logits(model) - expected_TV
    assert off_TV.std() < 0.02 * expected_TV.std()


def test_fusing_twice_changes_nothing() -> None:
    model = nn.Sequential(RMSNorm(16), MLP()).requires_grad_(False)
    assert (fuse(model), fuse(model)) == (2, 0)


def test_rows_that_do_not_fit_a_norm_are_refused() -> None:
    norm = FusedRMSNorm(torch.ones(16).bfloat16(), 1e-5, unit_offset=False)
    for rows in (torch.zeros(2, 16), torch.zeros(2, 8).bfloat16()):
        with pytest.raises(RuntimeError, match="expected bf16"):
            norm(rows)
