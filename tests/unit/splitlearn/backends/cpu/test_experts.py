"""Shapes: R rows, C choices of each, E experts, D width, I inner width."""

import copy
import gc
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from splitlearn.backends.cpu.experts import NativeExperts, count_experts, pack_experts
from splitlearn.backends.cpu.kernels import Kernels
from splitlearn.backends.cpu.kernels.structs import Gate
from splitlearn.backends.cpu.linear import Native, NativeInt4Linear, NativeInt8Linear, NativeLinear, PackedLinear
from splitlearn.backends.cpu.linear.int4 import quantize_int4
from splitlearn.backends.cpu.linear.int8 import quantize
from splitlearn.backends.cpu.linear.stacked import StackedLinear
from splitlearn.backends.cpu.packing import pack

pytestmark = pytest.mark.usefixtures("every_set")
BF16, INT8, INT4 = (NativeLinear, PackedLinear), (NativeInt8Linear, NativeLinear), (NativeInt4Linear, PackedLinear)
SILU = Gate.plain(is_gelu=False)
SMALL = {
    "vocab_size": 64,
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 48,
    "moe_intermediate_size": 40,
    "num_experts_per_tok": 2,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
# concatenated, transposed and interleaved stacks, with biases and without; SiLU, GELU, and gates with a limit
FAMILIES: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": 8},
    "qwen3_moe": {"num_experts": 128},
    "olmoe": {"num_experts": 8},
    "phimoe": {"num_local_experts": 4},
    "gpt_oss": {"num_local_experts": 4},
    "gemma4_text": {
        "num_experts": 4,
        "enable_moe_block": True,
        "top_k_experts": 2,
        "hidden_size_per_layer_input": 0,
        "num_kv_shared_layers": 0,
    },
}


def random(*shape: int, seed: int = 0, size: float = 1.0) -> torch.Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * size).bfloat16()


@dataclass(frozen=True)
class Weights:
    gate_up_END: torch.Tensor  # noqa: N815 - a shape
    down_EDI: torch.Tensor  # noqa: N815 - a shape
    gate_up_EN: torch.Tensor | None = None  # noqa: N815 - a shape
    down_ED: torch.Tensor | None = None  # noqa: N815 - a shape

    @classmethod
    def random(cls, n_experts: int = 8, width: int = 64, n_inner: int = 40, biases: bool = False) -> "Weights":
        stacks = random(n_experts, 2 * n_inner, width, size=0.1), random(n_experts, width, n_inner, seed=1, size=0.1)
        return cls(*stacks, *((random(n_experts, 2 * n_inner), random(n_experts, width)) if biases else ()))

    def native(self, kind: type[Native], gate: Gate = SILU) -> NativeExperts:
        count = len(self.down_EDI)
        up, down = self.gate_up_EN, self.down_ED
        gates = ((self.gate_up_END[expert], None if up is None else up[expert]) for expert in range(count))
        downs = ((self.down_EDI[expert], None if down is None else down[expert]) for expert in range(count))
        return NativeExperts(StackedLinear(kind, gates, count), StackedLinear(kind, downs, count), gate)

    def exact(self, rows_RD: torch.Tensor, choices_RC: torch.Tensor, shares_RC: torch.Tensor) -> torch.Tensor:
        """In fp64, rounded to bf16 where the kernels write rows."""
        output_RD = torch.zeros(rows_RD.shape, dtype=torch.float64)
        for row, (choices, shares) in enumerate(zip(choices_RC.tolist(), shares_RC.tolist(), strict=True)):
            for expert, share in zip(choices, shares, strict=True):
                if 0 <= expert < len(self.down_EDI):
                    output_RD[row] += share * self._unit(rows_RD[row].double(), expert)
        return output_RD

    def _unit(self, row_D: torch.Tensor, expert: int) -> torch.Tensor:
        up, down = self.gate_up_EN, self.down_ED
        both = functional.linear(row_D, self.gate_up_END[expert].double(), None if up is None else up[expert].double())
        gate, factor = both.bfloat16().double().chunk(2)
        gated = (functional.silu(gate).bfloat16().double() * factor).bfloat16().double()
        bias = None if down is None else down[expert].double()
        return functional.linear(gated, self.down_EDI[expert].double(), bias).bfloat16().double()


def choose(n_rows: int, n_choices: int, n_experts: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    dice = torch.Generator().manual_seed(seed)
    choices_RC = torch.rand(n_rows, n_experts, generator=dice).argsort(1)[:, :n_choices]
    return choices_RC, torch.rand(n_rows, n_choices, generator=dice)


def is_near(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """But for roundings to bf16 on the way, where sums have another order."""
    size = expected.double().abs().amax(-1, keepdim=True)
    return bool(((found.double() - expected.double()).abs() <= 2**-7 * size + 1e-9).all())


class Mixture(nn.Module):
    def __init__(self, experts: nn.Module) -> None:
        super().__init__()
        self.experts = experts


def experts_of(family: str) -> nn.Module:
    config = CONFIG_MAPPING[family](**{**SMALL, **FAMILIES[family]})
    model = AutoModelForCausalLM.from_config(config, experts_implementation="eager").eval().requires_grad_(False)
    found = next(each for each in model.modules() if type(each).__name__.endswith("Experts"))
    for index, parameter in enumerate(found.parameters()):
        parameter.copy_(random(*parameter.shape, seed=index, size=0.1))
    return found.bfloat16()


@pytest.mark.parametrize(
    ("n_rows", "n_choices", "n_experts"),
    [(0, 2, 4), (1, 1, 1), (1, 2, 8), (3, 8, 128), (40, 8, 128), (70, 2, 3), (5, 16, 16)],
)
@pytest.mark.parametrize("biases", [False, True])
def test_rows_go_through_the_experts_that_they_have_chosen(
    n_rows: int, n_choices: int, n_experts: int, biases: bool
) -> None:
    weights, rows_RD = Weights.random(n_experts, biases=biases), random(n_rows, 64, seed=2)
    chosen = choose(n_rows, n_choices, n_experts)
    assert is_near(weights.native(NativeLinear)(rows_RD, *chosen), weights.exact(rows_RD, *chosen))


@pytest.mark.parametrize(("width", "n_inner"), [(64, 2), (18, 34), (1024, 48), (2048, 16), (30, 1024)])
def test_any_width_is_right(width: int, n_inner: int) -> None:
    weights, rows_RD = Weights.random(5, width, n_inner), random(33, width, seed=2)
    chosen = choose(33, 2, 5)
    assert is_near(weights.native(NativeLinear)(rows_RD, *chosen), weights.exact(rows_RD, *chosen))


@pytest.mark.parametrize("biases", [False, True])
def test_levels_are_multiplied_as_the_rounded_weights_say(biases: bool) -> None:
    weights, rows_RD = Weights.random(16, biases=biases), random(20, 64, seed=2)
    rounded = [
        torch.stack([levels_NK.float() * scale_N.float()[:, None] for levels_NK, scale_N in map(quantize, stack)])
        for stack in (weights.gate_up_END, weights.down_EDI)
    ]
    chosen = choose(20, 4, 16)
    expected_RD = Weights(*rounded, weights.gate_up_EN, weights.down_ED).exact(rows_RD, *chosen)
    assert is_near(weights.native(NativeInt8Linear)(rows_RD, *chosen), expected_RD)


def test_int4_experts_multiply_as_the_rounded_weights_say() -> None:
    weights, rows_RD, chosen = Weights.random(16, 64, 96, biases=True), random(20, 64, seed=2), choose(20, 4, 16)
    rounded = [
        torch.stack([quantize_int4(each).dequantized() for each in stack])
        for stack in (weights.gate_up_END, weights.down_EDI)
    ]
    exact_RD = Weights(*rounded, weights.gate_up_EN, weights.down_ED).exact(rows_RD, *chosen)
    off_R = (weights.native(NativeInt4Linear)(rows_RD, *chosen).double() - exact_RD).norm(dim=1)
    # rows are rounded to 8 bits twice
    assert bool((off_R <= 0.015 * exact_RD.norm(dim=1)).all())


@pytest.mark.parametrize("none", [8, 9, -1, 2**40])
def test_a_choice_that_is_no_expert_adds_nothing(none: int) -> None:
    experts, rows_RD = Weights.random().native(NativeLinear), random(4, 64, seed=2)
    choices_RC, shares_RC = choose(4, 3, 8)
    shares_RC[2, 1] = 0
    expected_RD = experts(rows_RD, choices_RC, shares_RC)
    expected_RD[3] = 0
    choices_RC[2, 1], choices_RC[3] = none, none
    assert torch.equal(experts(rows_RD, choices_RC, shares_RC), expected_RD)


def test_rows_of_no_expert_alone_are_zeros() -> None:
    experts = Weights.random().native(NativeLinear)
    found_RD = experts(random(2, 64), torch.full((2, 2), 8), torch.ones(2, 2))
    assert torch.equal(found_RD, torch.zeros(2, 64).bfloat16())


def test_an_expert_that_is_chosen_twice_counts_twice() -> None:
    experts, rows_RD = Weights.random().native(NativeLinear), random(1, 64)
    twice_RD = experts(rows_RD, torch.tensor([[3, 3]]), torch.tensor([[0.25, 0.5]]))
    torch.testing.assert_close(
        twice_RD, experts(rows_RD, torch.tensor([[3]]), torch.tensor([[0.75]])), rtol=2**-7, atol=0
    )


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", [NativeLinear, NativeInt8Linear, NativeInt4Linear])
def test_a_broken_row_leaves_the_others_whole(kind: type[NativeLinear], broken: float) -> None:
    experts, rows_RD = Weights.random(2).native(kind), random(5, 64)
    chosen = choose(5, 2, 2)
    whole_RD = experts(rows_RD, *chosen)
    rows_RD[2, 7] = broken
    found_RD = experts(rows_RD, *chosen)
    assert not torch.isfinite(found_RD[2]).all()
    assert torch.equal(found_RD[[0, 1, 3, 4]], whole_RD[[0, 1, 3, 4]])


@pytest.mark.parametrize("kind", [NativeLinear, NativeInt8Linear, NativeInt4Linear])
def test_weights_that_no_row_has_chosen_are_not_read(kind: type[NativeLinear]) -> None:
    weights = Weights.random(8)
    whole, rows_RD = weights.native(kind), random(6, 64)
    broken = copy.deepcopy(weights)
    for stack in (broken.gate_up_END, broken.down_EDI):
        stack[[1, 4, 7]] = float("nan")
    choices_RC = torch.tensor([[0, 2], [3, 0], [5, 6], [6, 2], [2, 0], [0, 3]])
    shares_RC = torch.rand(6, 2)
    if kind is NativeLinear:
        assert torch.equal(broken.native(kind)(rows_RD, choices_RC, shares_RC), whole(rows_RD, choices_RC, shares_RC))
    small = Weights(*(stack[[0, 2, 3, 5, 6]] for stack in (weights.gate_up_END, weights.down_EDI))).native(kind)
    places_RC = torch.searchsorted(torch.tensor([0, 2, 3, 5, 6]), choices_RC)
    assert torch.equal(small(rows_RD, places_RC, shares_RC), whole(rows_RD, choices_RC, shares_RC))


@pytest.mark.parametrize("kind", [NativeLinear, NativeInt8Linear, NativeInt4Linear])
def test_a_row_comes_out_the_same_to_the_bit_whoever_shares_the_step(kind: type[NativeLinear]) -> None:
    experts, rows_RD = Weights.random(6, width=96).native(kind), random(90, 96, seed=1)
    choices_RC, shares_RC = choose(90, 3, 6)
    alone_RD = torch.cat([experts(rows_RD[[r]], choices_RC[[r]], shares_RC[[r]]) for r in range(90)])

    @settings(max_examples=30, deadline=None)
    @given(st.lists(st.integers(0, 89), min_size=1, max_size=90))
    def check(some: list[int]) -> None:
        assert torch.equal(experts(rows_RD[some], choices_RC[some], shares_RC[some]), alone_RD[some])

    check()
    assert torch.equal(experts(rows_RD, choices_RC, shares_RC), alone_RD)


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_threads_share_the_work_without_a_gap(n_threads: int) -> None:
    weights, rows_RD = Weights.random(8, 256, 128), random(300, 256, seed=2)
    experts, chosen, before = weights.native(NativeLinear), choose(300, 2, 8), torch.get_num_threads()
    try:
        torch.set_num_threads(n_threads)
        found_RD = experts(rows_RD, *chosen)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found_RD[:7], experts(rows_RD[:7], *(each[:7] for each in chosen)))
    assert is_near(found_RD, weights.exact(rows_RD, *chosen))


@pytest.fixture(params=FAMILIES)
def stock(request: pytest.FixtureRequest) -> Iterator[nn.Module]:
    with torch.inference_mode():
        yield experts_of(request.param)


def test_experts_of_every_form_are_replaced_and_give_what_they_gave(stock: nn.Module) -> None:
    rows_RD = random(50, 64, seed=3) * torch.logspace(-2, 2, 50)[:, None].bfloat16()
    choices_RC, shares_RC = choose(50, 2, stock.down_proj.shape[0])
    exact = copy.deepcopy(stock).float()
    expected_RD = exact(rows_RD.float(), choices_RC, shares_RC.bfloat16().float())
    model = Mixture(stock)
    assert len(pack_experts(model, BF16)) == 1
    assert isinstance(model.experts, NativeExperts)
    off_R = (model.experts(rows_RD, choices_RC, shares_RC.bfloat16()) - expected_RD).norm(dim=1)
    # that of bf16 where five operations follow each other
    assert bool((off_R <= 2**-6 * expected_RD.norm(dim=1)).all())


@pytest.mark.parametrize(("kinds", "size", "share"), [(INT8, 1.3, 0.03), (INT4, 0.9, 0.3)], ids=["int8", "int4"])
def test_rounded_experts_stay_near_those_that_they_are_rounded_from(
    stock: nn.Module, kinds: Sequence[type[nn.Module]], size: float, share: float
) -> None:
    rows_RD, chosen = random(50, 64, seed=3), choose(50, 2, stock.down_proj.shape[0])
    expected_RD = stock(rows_RD, *chosen).float()
    model = Mixture(stock)
    (packed,) = pack_experts(model, kinds)
    assert sum(span.n_bytes for span in packed.spans) < size * 3 * stock_numbers(packed)
    off_RD = model.experts(rows_RD, *chosen).float() - expected_RD
    assert 0 < off_RD.std() < share * expected_RD.std()


def stock_numbers(packed: NativeExperts) -> int:
    return packed.gate_up_proj.count * packed.down_proj.in_features * packed.down_proj.out_features


def test_the_original_weights_are_freed_even_if_someone_holds_the_old_module() -> None:
    old = experts_of("mixtral")
    weights = [weakref.ref(parameter) for parameter in old.parameters()]
    n_bytes = sum(parameter.nbytes for parameter in old.parameters())
    done = pack(Mixture(old))
    gc.collect()
    assert [weight() for weight in weights] == [None, None]
    assert (done.n_linears, done.n_experts, done.n_bytes) == (0, 1, n_bytes)


def test_the_weights_of_one_mixture_are_freed_before_the_next_is_packed() -> None:
    model = nn.ModuleList([Mixture(experts_of("mixtral")), Mixture(experts_of("mixtral"))])
    stacks = [[weakref.ref(parameter) for parameter in each.parameters()] for each in model]
    n_held = []

    class Watched(NativeLinear):
        def __init__(self, weight_NK: torch.Tensor, bias_N: torch.Tensor | None = None) -> None:
            super().__init__(weight_NK, bias_N)
            n_held.append(sum(stack() is not None for each in stacks for stack in each))

    assert len(pack_experts(model, (Watched,))) == 2
    assert n_held == [4] * 16 + [2] * 16


def test_experts_in_two_places_are_packed_once_and_keep_their_hooks() -> None:
    experts = experts_of("mixtral")
    experts.register_forward_hook(lambda _, __, output: output * 0)
    model = nn.ModuleDict({"one": experts, "other": experts})
    assert pack(model).n_experts == 1
    assert model["one"] is model["other"]
    assert not model["one"](random(3, 64), *choose(3, 2, 8)).any()
    assert pack(model).n_experts == 0


class Halving(nn.Module):
    """Has the weights of a mixture, and computes something else."""

    def __init__(self, n_experts: int = 4, dtype: torch.dtype = torch.bfloat16, n_inner: int = 32) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.randn(n_experts, 2 * n_inner, 64).to(dtype), requires_grad=False)
        self.down_proj = nn.Parameter(torch.randn(n_experts, 64, n_inner).to(dtype), requires_grad=False)

    def forward(
        self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        return hidden_states / 2


class Thrice(Halving):
    def forward(self, hidden_states: torch.Tensor, top_k_index: torch.Tensor) -> torch.Tensor:
        return hidden_states / 3


def gelu_experts() -> nn.Module:
    experts = experts_of("mixtral")
    experts.act_fn = nn.GELU()
    return experts


@pytest.mark.parametrize(
    "make",
    [Halving, Thrice, gelu_experts, lambda: Halving(dtype=torch.float32), lambda: Halving(n_inner=31)],
    ids=["another result", "other arguments", "another activation", "fp32", "odd width"],
)
def test_a_module_that_the_kernels_do_not_compute_stays_as_it_is(make: Any) -> None:
    model = Mixture(make())
    before = model.experts
    assert pack(model).n_experts == 0
    assert model.experts is before
    assert count_experts(model) == (1, 0)


def test_rows_and_choices_that_do_not_fit_are_refused() -> None:
    experts = Weights.random().native(NativeLinear)
    with pytest.raises(RuntimeError, match=r"expected bf16 \[..., 64\], found torch.float32 \[1, 64\]"):
        experts(torch.zeros(1, 64), *choose(1, 2, 8))
    with pytest.raises(RuntimeError, match="choices and shares of 2 rows"):
        experts(random(2, 64), *choose(1, 2, 8))


def test_rows_that_are_too_wide_for_sums_of_levels_keep_the_weights_as_they_are() -> None:
    width, experts = Kernels.MOST_INT8_INPUTS + 2, experts_of("mixtral")
    experts.gate_up_proj = nn.Parameter(random(1, 32, width, size=1e-3), requires_grad=False)
    experts.down_proj = nn.Parameter(random(1, width, 16), requires_grad=False)
    (packed,) = pack_experts(Mixture(experts), INT8)
    assert sum(span.n_bytes for span in packed.spans) >= 2 * 3 * 16 * width
