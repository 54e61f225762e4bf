import pytest
import torch
from torch.nn import functional

from splitlearn.backends.cpu.linear import Int8Linear
from splitlearn.backends.cpu.linear.int8 import quantize

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def random(*shape: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_weight_is_off_by_more_than_half_a_scale(dtype: torch.dtype) -> None:
    weight_NK = random(33, 64, dtype=dtype)
    levels_NK, scale_N = quantize(weight_NK)
    off_NK = (levels_NK.double() * scale_N.double()[:, None] - weight_NK.double()).abs()
    assert torch.all(off_NK <= 0.5001 * scale_N.double()[:, None])
    assert torch.all(scale_N.double() <= weight_NK.double().abs().amax(dim=1) / 127 * (1 + 2**-8))
    assert (levels_NK.min().item(), levels_NK.max().item()) == (-127, 127)


def test_a_weight_in_pieces_is_rounded_as_in_one() -> None:
    weight_NK = random(5000, 1024, dtype=torch.bfloat16)
    levels_NK, scale_N = quantize(weight_NK)
    last_levels_NK, last_scale_N = quantize(weight_NK[-10:])
    assert torch.equal(levels_NK[-10:], last_levels_NK)
    assert torch.equal(scale_N[-10:], last_scale_N)


def test_an_output_without_weights_is_zero() -> None:
    weight_NK = random(4, 16, dtype=torch.float32)
    weight_NK[2] = 0
    output_RN = Int8Linear(weight_NK)(random(3, 16, dtype=torch.float32, seed=1))
    assert torch.equal(output_RN[:, 2], torch.zeros(3))


@pytest.mark.parametrize("n_rows", range(1, 41))
def test_any_number_of_rows_is_multiplied_by_the_rounded_weight(n_rows: int) -> None:
    weight_NK, bias_N = random(50, 112, dtype=torch.bfloat16), random(50, dtype=torch.bfloat16, seed=1)
    rows_RK = random(n_rows, 112, dtype=torch.bfloat16, seed=2)
    linear = Int8Linear(weight_NK, bias_N)
    rounded_NK = linear.levels_NK.double() * linear.scale_N.double()[:, None]
    product_RN = rows_RK.double() @ rounded_NK.T
    expected_RN = product_RN + bias_N.double()
    # three roundings to bf16: product, scale, bias
    bound_RN = (2 * product_RN.abs() + expected_RN.abs()) * 2**-8 + 1e-3
    assert torch.all((linear(rows_RK).double() - expected_RN).abs() <= bound_RN)


@pytest.mark.parametrize("n_rows", [1, 8, 9, 33])
def test_fp32_rows_lose_no_more_than_the_weights_do(n_rows: int) -> None:
    weight_NK, rows_RK = random(40, 256, dtype=torch.float32), random(n_rows, 256, dtype=torch.float32, seed=1)
    linear = Int8Linear(weight_NK)
    off_RN = (linear(rows_RK) - functional.linear(rows_RK, weight_NK)).abs()
    worst_RN = rows_RK.abs().sum(dim=1, keepdim=True) * linear.scale_N / 2
    assert torch.all(off_RN <= worst_RN + 1e-4)


@pytest.mark.parametrize("n_rows", [2, 12])
def test_leading_dimensions_stay(n_rows: int) -> None:
    linear = Int8Linear(random(7, 16, dtype=torch.float32))
    rows_BTK = random(3, n_rows, 16, dtype=torch.float32, seed=1)
    torch.testing.assert_close(linear(rows_BTK)[1], linear(rows_BTK[1].contiguous()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n_rows", [3, 12])
def test_rows_that_are_no_neighbours_in_memory_are_read_right(n_rows: int) -> None:
    linear, wide_RK = Int8Linear(random(7, 16, dtype=torch.bfloat16)), random(n_rows, 32, dtype=torch.bfloat16, seed=1)
    assert torch.equal(linear(wide_RK[:, 8:24]), linear(wide_RK[:, 8:24].clone()))


def test_the_weight_takes_a_byte_for_each_number() -> None:
    linear = Int8Linear(random(128, 64, dtype=torch.bfloat16))
    assert linear.span.n_bytes == 128 * 64
    assert sum(tensor.nbytes for tensor in (*linear.parameters(), *linear.buffers())) == 128 * 64 + 2 * 128


def test_rows_of_a_width_that_the_kernel_would_read_past_are_not_supported() -> None:
    assert Int8Linear.supports(torch.empty(50, 112, dtype=torch.bfloat16))
    assert not Int8Linear.supports(torch.empty(50, 100, dtype=torch.bfloat16))
    assert not Int8Linear.supports(torch.empty(50, 112, dtype=torch.float64))
    assert not Int8Linear.supports(torch.empty(50, 112, dtype=torch.bfloat16, device="meta"))
