import pytest
import torch
from torch.nn import functional

from splitlearn.backends.cpu.kernels import Kernels
from splitlearn.backends.cpu.linear import NativeInt8Linear, NativeLinear
from splitlearn.backends.cpu.linear.int8 import quantize

SOME = torch.zeros(1, 2, dtype=torch.bfloat16)
pytestmark = pytest.mark.usefixtures("every_set")
# one row, a block of any kind, two equal blocks, and more
ROWS = (1, 2, 7, 8, 13, 14, 15, 16, 17, 28, 29, 32, 33, 57)


def random(*shape: int, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def within_a_rounding(found: torch.Tensor, exact: torch.Tensor) -> bool:
    # half a unit in the last of bf16's 8 bits, and what the sum of the products loses in fp32
    return bool(torch.all((found.double() - exact).abs() <= exact.abs() * 2**-8 + 1e-4))


@pytest.mark.parametrize("n_outputs", [1, 15, 16, 17, 48, 96])
@pytest.mark.parametrize("n_rows", ROWS)
def test_any_shape_is_rounded_once(n_rows: int, n_outputs: int) -> None:
    weight_NK, bias_N = random(n_outputs, 82), random(n_outputs, seed=1)
    rows_RK = random(n_rows, 82, seed=2)
    exact_RN = functional.linear(rows_RK.double(), weight_NK.double(), bias_N.double())
    assert within_a_rounding(NativeLinear(weight_NK, bias_N)(rows_RK), exact_RN)


def test_more_rows_than_a_core_s_cache_holds_are_as_they_are_alone() -> None:
    linear, rows_RK = NativeLinear(random(48, 8192)), random(150, 8192, seed=2)
    together_RN = linear(rows_RK)
    for row in (0, 63, 64, 127, 149):
        assert torch.equal(linear(rows_RK[row : row + 1])[0], together_RN[row])


@pytest.mark.parametrize("n_outputs", [1, 16, 17, 96])
@pytest.mark.parametrize("n_rows", ROWS)
def test_levels_are_multiplied_as_the_rounded_weight_says(n_rows: int, n_outputs: int) -> None:
    weight_NK, bias_N = random(n_outputs, 82), random(n_outputs, seed=1)
    rows_RK = random(n_rows, 82, seed=2)
    levels_NK, scale_N = quantize(weight_NK)
    rounded_NK = levels_NK.double() * scale_N.double()[:, None]
    exact_RN = functional.linear(rows_RK.double(), rounded_NK, bias_N.double())
    # each number of a row is off by half of what the 16 bits of its greatest one tell apart
    off_R = rows_RK.double().abs().amax(1) / 65534
    error_RN = (NativeInt8Linear(weight_NK, bias_N)(rows_RK).double() - exact_RN).abs()
    assert bool(torch.all(error_RN <= exact_RN.abs() * 2**-8 + off_R[:, None] * rounded_NK.abs().sum(1) + 1e-4))


@pytest.mark.parametrize("scale", [1e-38, 1e-20, 1e20, 1e37])
def test_rows_of_any_size_are_as_exact_as_others(scale: float) -> None:
    linear, rows_RK = NativeInt8Linear(random(16, 64)), random(3, 64, seed=1)
    found_RN = linear((rows_RK.double() * scale).bfloat16()).double()
    expected_RN = linear(rows_RK).double() * scale if scale > 1e-30 else torch.zeros(3, 16, dtype=torch.float64)
    assert torch.allclose(found_RN, expected_RN, rtol=0.02, atol=0.02 * scale)


def test_a_row_of_zeros_gives_the_bias() -> None:
    bias_N = random(16, seed=1)
    assert torch.equal(NativeInt8Linear(random(16, 32), bias_N)(torch.zeros(2, 32, dtype=torch.bfloat16))[1], bias_N)


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
def test_a_row_that_is_broken_comes_out_broken_and_the_others_whole(broken: float) -> None:
    linear, rows_RK = NativeInt8Linear(random(16, 32)), random(3, 32, seed=1)
    whole_RN = linear(rows_RK)
    rows_RK[1, 5] = broken
    found_RN = linear(rows_RK)
    assert not torch.isfinite(found_RN[1]).any()
    assert torch.equal(found_RN[[0, 2]], whole_RN[[0, 2]])


def test_the_widest_rows_do_not_overflow() -> None:
    weight_NK = torch.ones(1, Kernels.MOST_INT8_INPUTS, dtype=torch.bfloat16)
    for sign in (1, -1):
        rows_RK = sign * torch.ones(1, Kernels.MOST_INT8_INPUTS, dtype=torch.bfloat16)
        assert NativeInt8Linear(weight_NK)(rows_RK).item() == sign * Kernels.MOST_INT8_INPUTS
    assert not NativeInt8Linear.supports(torch.ones(1, Kernels.MOST_INT8_INPUTS + 2, dtype=torch.bfloat16))


@pytest.mark.parametrize("kind", [NativeLinear, NativeInt8Linear])
def test_a_row_comes_out_the_same_to_the_bit_whoever_shares_the_step(kind: type[NativeLinear]) -> None:
    linear, rows_RK = kind(random(96, 128)), random(57, 128, seed=1)
    all_RN = linear(rows_RK)
    for n_rows in ROWS:
        assert torch.equal(linear(rows_RK[:n_rows]), all_RN[:n_rows])


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_threads_share_the_outputs_without_a_gap(n_threads: int) -> None:
    weight_NK, rows_RK = random(33, 64), random(3, 64, seed=1)
    linear, before = NativeLinear(weight_NK), torch.get_num_threads()
    try:
        torch.set_num_threads(n_threads)
        found_RN = linear(rows_RK)
    finally:
        torch.set_num_threads(before)
    assert within_a_rounding(found_RN, rows_RK.double() @ weight_NK.double().T)


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 1), (3, 5), (1, 0)])
def test_leading_dimensions_stay(shape: tuple[int, int]) -> None:
    weight_NK, rows_BTK = random(7, 14), random(*shape, 14, seed=1)
    found_BTN = NativeLinear(weight_NK)(rows_BTK)
    assert found_BTN.shape == (*shape, 7)
    assert within_a_rounding(found_BTN, functional.linear(rows_BTK.double(), weight_NK.double()))


def test_rows_that_are_no_neighbours_in_memory_are_read_right() -> None:
    linear, wide_RK = NativeLinear(random(7, 16)), random(3, 32, seed=1)
    assert torch.equal(linear(wide_RK[:, 8:24]), linear(wide_RK[:, 8:24].clone()))


@pytest.mark.parametrize("n_rows", [8, 9, 40])
def test_rows_a_cache_period_apart_come_out_as_others(n_rows: int) -> None:
    weight_NK, rows_RK = random(20, 2048), random(n_rows, 2048, seed=1)
    linear = NativeLinear(weight_NK)
    assert within_a_rounding(linear(rows_RK), rows_RK.double() @ weight_NK.double().T)
    wide_RK = random(n_rows, 2 * 2048, seed=1)[:, :2048]
    assert torch.equal(linear(wide_RK), linear(wide_RK.clone()))


@pytest.mark.parametrize("rows", [random(3, 128, dtype=torch.float32), random(3, 64)])
def test_rows_that_do_not_fit_the_weight_are_refused(rows: torch.Tensor) -> None:
    with pytest.raises(RuntimeError, match="expected bf16"):
        NativeLinear(random(64, 128))(rows)


@pytest.mark.parametrize("n_outputs", [16, 20])
def test_the_weight_can_be_read_back(n_outputs: int) -> None:
    weight_NK = random(n_outputs, 12)
    assert torch.equal(NativeLinear(weight_NK).weight, weight_NK)
    levels_NK, scale_N = quantize(weight_NK)
    assert torch.equal(NativeInt8Linear(weight_NK).weight, levels_NK.bfloat16() * scale_N[:, None])


def test_the_packed_weight_takes_what_it_took_before() -> None:
    assert NativeLinear(random(64, 32)).span.n_bytes == 64 * 32 * 2
    assert NativeInt8Linear(random(64, 32)).span.n_bytes == 64 * 32


@pytest.mark.parametrize("weight", [random(16, 32, dtype=torch.float32), random(16, 31)])
def test_other_dtypes_and_odd_widths_are_left_to_others(weight: torch.Tensor) -> None:
    assert not NativeLinear.supports(weight)
