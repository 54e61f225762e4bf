import pytest
import torch
from torch import nn
from torch.nn import functional

from splitlearn.backends.cpu.linear import MergedLinear, MergedLinearSlice, PackedLinear
from splitlearn.backends.cpu.packing import pack

WIDTHS = (6, 2, 2)


class Counting(PackedLinear):
    """Counts how often it computes."""

    n_calls = 0

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
        self.n_calls += 1
        return super().forward(input)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(8, 6)
        self.k_proj = nn.Linear(8, 2)
        self.v_proj = nn.Linear(8, 2)


def siblings() -> tuple[Counting, list[MergedLinearSlice], list[torch.Tensor]]:
    torch.manual_seed(0)
    weight_NK, bias_N = torch.randn(sum(WIDTHS), 8), torch.randn(sum(WIDTHS))
    linear = Counting(weight_NK, bias_N)
    fused = MergedLinear(linear, WIDTHS)
    biases = torch.split(bias_N, WIDTHS)
    return linear, [MergedLinearSlice(fused, i, 8, biases[i]) for i in range(3)], list(torch.split(weight_NK, WIDTHS))


def is_right(sibling: MergedLinearSlice, weight_NK: torch.Tensor, rows_RK: torch.Tensor) -> bool:
    expected_RN = functional.linear(rows_RK, weight_NK, sibling.bias)
    return torch.allclose(sibling(rows_RK), expected_RN, atol=1e-5)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_one_computation_serves_all_in_any_order(order: tuple[int, ...]) -> None:
    linear, parts, weights = siblings()
    rows_RK = torch.randn(3, 8)
    assert all(is_right(parts[i], weights[i], rows_RK) for i in order)
    assert linear.n_calls == 1


def test_nothing_is_held_once_each_has_taken_its_own() -> None:
    _, parts, _ = siblings()
    rows_RK = torch.randn(3, 8)
    for part in parts:
        part(rows_RK)
    assert parts[0].fused._held is None


def test_a_sibling_called_alone_or_twice_is_right() -> None:
    linear, parts, weights = siblings()
    rows_RK = torch.randn(3, 8)
    assert is_right(parts[1], weights[1], rows_RK)
    assert is_right(parts[1], weights[1], rows_RK)
    assert linear.n_calls == 2
    assert is_right(parts[2], weights[2], torch.randn(4, 8))


def test_an_equal_but_other_tensor_is_computed_afresh() -> None:
    linear, parts, weights = siblings()
    rows_RK = torch.randn(3, 8)
    parts[0](rows_RK)
    assert is_right(parts[1], weights[1], rows_RK.clone())
    assert linear.n_calls == 2


def test_rows_changed_in_place_are_computed_afresh() -> None:
    _, parts, weights = siblings()
    rows_RK = torch.randn(3, 8)
    parts[0](rows_RK)
    rows_RK += 1
    assert is_right(parts[1], weights[1], rows_RK)


def test_inference_tensors_are_told_apart() -> None:
    linear, parts, weights = siblings()
    with torch.inference_mode():
        for _ in range(2):
            rows_RK = torch.randn(1, 8)
            assert all(is_right(part, weight, rows_RK) for part, weight in zip(parts, weights, strict=True))
    assert linear.n_calls == 2


def test_each_reads_back_its_own_weight() -> None:
    _, parts, weights = siblings()
    assert all(torch.equal(part.weight, weight) for part, weight in zip(parts, weights, strict=True))
    assert [(part.in_features, part.out_features) for part in parts] == [(8, 6), (8, 2), (8, 2)]


@pytest.mark.parametrize("weights", ["none", "int8"])
def test_siblings_with_a_bias_each_keep_it(weights: str) -> None:
    attention = Attention().requires_grad_(False)
    biases = [linear.bias.clone() for linear in attention.children() if isinstance(linear, nn.Linear)]
    pack(attention, weights)
    assert torch.equal(torch.cat([child.bias for child in attention.children()]), torch.cat(biases))


def test_siblings_of_which_only_one_has_a_bias_stay_apart() -> None:
    attention = Attention().requires_grad_(False)
    attention.k_proj = nn.Linear(8, 2, bias=False)
    pack(attention)
    assert all(isinstance(child, PackedLinear) for child in attention.children())


def test_siblings_of_different_input_width_stay_apart() -> None:
    attention = Attention().requires_grad_(False)
    attention.k_proj = nn.Linear(16, 2)
    pack(attention)
    assert all(isinstance(child, PackedLinear) for child in attention.children())
