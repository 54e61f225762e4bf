import pytest
import torch
from torch.nn import functional

from splitlearn.backends.cpu.linear import PackedLinear


def random(*shape: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("n_rows", range(1, 41))
def test_any_number_of_rows_comes_out_as_stock_within_a_rounding_of_bf16(n_rows: int) -> None:
    weight_NK, bias_N = random(96, 80, dtype=torch.bfloat16), random(96, dtype=torch.bfloat16, seed=1)
    rows_RK = random(n_rows, 80, dtype=torch.bfloat16, seed=2)
    found_RN = PackedLinear(weight_NK, bias_N)(rows_RK)
    exact_RN = functional.linear(rows_RK.double(), weight_NK.double(), bias_N.double())
    assert found_RN.dtype is torch.bfloat16
    # half a unit in the last of bf16's 8 bits, and what the sum of the products loses in fp32
    assert torch.all((found_RN.double() - exact_RN).abs() <= exact_RN.abs() * 2**-8 + 1e-4)


@pytest.mark.parametrize("n_rows", range(1, 41))
def test_fp32_is_stock_but_for_the_order_of_sums(n_rows: int) -> None:
    weight_NK, bias_N = random(50, 100, dtype=torch.float32), random(50, dtype=torch.float32, seed=1)
    rows_RK = random(n_rows, 100, dtype=torch.float32, seed=2)
    torch.testing.assert_close(
        PackedLinear(weight_NK, bias_N)(rows_RK), functional.linear(rows_RK, weight_NK, bias_N), rtol=1e-5, atol=2e-5
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 1), (3, 5), (1, 0)])
def test_leading_dimensions_stay(shape: tuple[int, int], dtype: torch.dtype) -> None:
    weight_NK, rows_BTK = random(7, 13, dtype=dtype), random(*shape, 13, dtype=dtype, seed=1)
    found_BTN = PackedLinear(weight_NK)(rows_BTK)
    assert found_BTN.shape == (*shape, 7)
    torch.testing.assert_close(found_BTN, functional.linear(rows_BTK, weight_NK), rtol=2**-7, atol=1e-2)


def test_rows_that_are_no_neighbours_in_memory_are_read_right() -> None:
    weight_NK, wide_RK = random(7, 16, dtype=torch.bfloat16), random(3, 32, dtype=torch.bfloat16, seed=1)
    for n_rows in (1, 3):
        rows_RK = wide_RK[:n_rows, 8:24]
        expected_RN = PackedLinear(weight_NK)(rows_RK.clone())
        assert torch.equal(PackedLinear(weight_NK)(rows_RK), expected_RN)


def test_a_row_does_not_depend_on_how_many_come_with_it_up_to_four() -> None:
    packed = PackedLinear(random(64, 128, dtype=torch.bfloat16))
    rows_RK = random(4, 128, dtype=torch.bfloat16, seed=1)
    all_RN = packed(rows_RK)
    assert torch.equal(packed(rows_RK[:1]), all_RN[:1])
    assert torch.equal(packed(rows_RK[:2]), all_RN[:2])


def test_rows_of_another_dtype_are_refused() -> None:
    with pytest.raises(RuntimeError):
        PackedLinear(random(64, 128, dtype=torch.bfloat16))(random(3, 128, dtype=torch.float32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_weight_can_be_read_back(dtype: torch.dtype) -> None:
    weight_NK = random(50, 100, dtype=dtype)
    packed = PackedLinear(weight_NK)
    assert torch.equal(packed.weight, weight_NK)
    assert (packed.in_features, packed.out_features, packed.bias) == (100, 50, None)


def test_there_is_one_copy_of_the_weight_and_it_is_not_the_given_one() -> None:
    weight_NK = random(128, 64, dtype=torch.bfloat16)
    packed = PackedLinear(weight_NK)
    assert packed.span.n_bytes == weight_NK.nbytes
    assert packed.span.address != weight_NK.data_ptr()
    assert not [tensor for tensor in (*packed.parameters(), *packed.buffers()) if tensor.ndim > 1]
