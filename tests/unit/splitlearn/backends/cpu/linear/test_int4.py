from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from splitlearn.backends.cpu.linear import Int4Linear, NativeInt4Linear
from splitlearn.backends.cpu.linear.int4 import (
    Int4Parameter,
    Int4Weight,
    PackedInt4Weight,
    joined,
    pack_levels,
    packed_bytes,
    quantize_int4,
)

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# one row, blocks of every height, and more
ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 33)


def random(*shape: int, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def random_weight(n_outputs: int, n_inputs: int, group_size: int) -> Int4Weight:
    """With zero points, and with any level, as checkpoints have them."""
    generator = torch.Generator().manual_seed(0)
    n_groups = -(-n_inputs // group_size)
    levels_NK = torch.randint(0, 16, (n_outputs, n_inputs), dtype=torch.uint8, generator=generator)
    zero_NG = torch.randint(0, 16, (n_outputs, n_groups), generator=generator).half()
    return Int4Weight(levels_NK, random(n_outputs, n_groups, dtype=torch.float16), zero_NG, group_size)


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_weight_is_off_by_more_than_half_a_scale_but_at_the_far_end(dtype: torch.dtype) -> None:
    weight_NK = random(33, 64, dtype=dtype)
    weight = quantize_int4(weight_NK)
    scale_NK = weight.scale_NG.double().repeat_interleave(32, 1)
    off_NK = (weight.dequantized().double() - weight_NK.double()).abs()
    # of 16 levels one half has 8 and the other 7: a weight as great as the greatest, of the other sign, has none
    is_at_the_end_NK = weight_NK.double() / scale_NK > 7.5
    assert torch.all(off_NK[~is_at_the_end_NK] <= 0.5001 * scale_NK.abs()[~is_at_the_end_NK])
    assert torch.all(off_NK <= 1.0001 * scale_NK.abs())
    assert (weight.levels_NK.min().item(), weight.levels_NK.max().item()) == (0, 15)


def test_the_greatest_weight_of_a_group_stays_what_it_is() -> None:
    weight_NK = random(16, 64)
    weight = quantize_int4(weight_NK)
    grouped = weight_NK.view(16, 2, 32)
    greatest = grouped.gather(2, grouped.abs().argmax(2, keepdim=True))
    levels = weight.levels_NK.view(16, 2, 32).gather(2, grouped.abs().argmax(2, keepdim=True))
    assert torch.equal(levels, torch.zeros_like(levels))
    # half a unit in the last of fp16's 11 bits
    torch.testing.assert_close(weight.scale_NG[..., None].float() * -8, greatest.float(), rtol=2**-11, atol=0)


def test_a_weight_in_pieces_is_rounded_as_in_one() -> None:
    weight_NK = random(5000, 1024)
    last, whole = quantize_int4(weight_NK[-10:]), quantize_int4(weight_NK)
    assert torch.equal(whole.levels_NK[-10:], last.levels_NK)
    assert torch.equal(whole.scale_NG[-10:], last.scale_NG)


def test_a_group_without_weights_is_zero() -> None:
    weight_NK = random(4, 64)
    weight_NK[2, 32:] = 0
    assert torch.equal(quantize_int4(weight_NK).dequantized()[2, 32:], torch.zeros(32))


@pytest.mark.parametrize("group_size", [32, 64, 128])
@pytest.mark.parametrize("shape", [(1, 32), (15, 64), (17, 82), (96, 160), (48, 33)])
@pytest.mark.usefixtures("every_set")
def test_levels_are_multiplied_as_the_rounded_weight_says(shape: tuple[int, int], group_size: int) -> None:
    weight, bias_N = random_weight(*shape, group_size), random(shape[0], seed=1)
    linear, rounded_NK = NativeInt4Linear(weight, bias_N), weight.dequantized().double()
    for n_rows in ROWS:
        rows_RK = random(n_rows, shape[1], seed=2)
        blocks = functional.pad(rows_RK.double(), (0, -shape[1] % 32)).view(n_rows, -1, 32)
        # each number is off by half of what the 8 bits of the greatest of its block tell apart
        off_RK = (blocks.abs().amax(2, keepdim=True) / 254).expand_as(blocks).flatten(1)[:, : shape[1]]
        exact_RN = functional.linear(rows_RK.double(), rounded_NK, bias_N.double())
        error_RN = (linear(rows_RK).double() - exact_RN).abs()
        assert torch.all(error_RN <= exact_RN.abs() * 2**-8 + off_RK @ rounded_NK.abs().T + 1e-4)


@pytest.mark.usefixtures("every_set")
def test_rows_of_whole_numbers_are_multiplied_exactly() -> None:
    weight = random_weight(33, 96, 32)
    levels_RK = torch.randint(-127, 128, (9, 96), generator=torch.Generator().manual_seed(3))
    levels_RK[:, ::32] = 127
    found_RN = NativeInt4Linear(weight)(levels_RK.bfloat16())
    exact_RN = levels_RK.double() @ weight.dequantized().double().T
    # what rounding to bf16 and sums in fp32 lose
    assert torch.all((found_RN.double() - exact_RN).abs() <= exact_RN.abs() * 2**-8 + 1e-2)


@pytest.mark.usefixtures("every_set")
def test_a_row_comes_out_the_same_to_the_bit_whoever_shares_the_step() -> None:
    linear, rows_RK = NativeInt4Linear(random(96, 130)), random(57, 130, seed=1)
    all_RN = linear(rows_RK)
    for n_rows in ROWS:
        assert torch.equal(linear(rows_RK[:n_rows]), all_RN[:n_rows])


@pytest.mark.parametrize("power", [-126, -66, 66, 115])
@pytest.mark.usefixtures("every_set")
def test_rows_of_any_size_are_as_exact_as_others(power: int) -> None:
    linear, rows_RK = NativeInt4Linear(random(16, 64)), random(3, 64, seed=1)
    # a power of two changes no digit; numbers next to nothing are none
    expected_RN = linear(rows_RK) * 2.0**power if power > -100 else torch.zeros(3, 16, dtype=torch.bfloat16)
    assert torch.equal(linear(rows_RK * 2.0**power), expected_RN)


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.usefixtures("every_set")
def test_a_row_that_is_broken_comes_out_broken_and_the_others_whole(broken: float) -> None:
    linear, rows_RK = NativeInt4Linear(random(16, 64)), random(3, 64, seed=1)
    whole_RN = linear(rows_RK)
    rows_RK[1, 5] = broken
    found_RN = linear(rows_RK)
    assert not torch.isfinite(found_RN[1]).any()
    assert torch.equal(found_RN[[0, 2]], whole_RN[[0, 2]])


@pytest.mark.parametrize("n_outputs", [16, 20])
@pytest.mark.usefixtures("every_set")
def test_the_weight_can_be_read_back(n_outputs: int) -> None:
    weight = random_weight(n_outputs, 100, 64)
    assert torch.equal(NativeInt4Linear(weight).weight, weight.dequantized().bfloat16())


@pytest.mark.usefixtures("every_set")
def test_a_packed_weight_takes_half_a_byte_for_each_number_and_two_for_a_group() -> None:
    linear = NativeInt4Linear(random(64, 128))
    assert linear.span.n_bytes == 64 * 128 // 2
    assert sum(tensor.nbytes for tensor in linear.descriptor.tensors) == 64 * 128 // 2 + 64 * 4 * 2


@pytest.mark.parametrize("has_zeros", [False, True])
@pytest.mark.parametrize("group_size", [32, 128])
@pytest.mark.parametrize(("n_outputs", "n_inputs"), [(16, 64), (20, 82), (1, 256)])
@pytest.mark.usefixtures("every_set")
def test_bytes_are_known_before_a_weight_is_packed(
    n_outputs: int, n_inputs: int, group_size: int, has_zeros: bool
) -> None:
    weight = random_weight(n_outputs, n_inputs, group_size)
    linear = NativeInt4Linear(weight if has_zeros else replace(weight, zero_NG=None))
    held = sum(tensor.nbytes for tensor in linear.descriptor.tensors)
    assert packed_bytes(n_outputs, n_inputs, group_size, has_zeros=has_zeros) == held


def test_what_files_hold_says_how_much_it_takes_packed() -> None:
    levels_NH, numbers_NG = torch.zeros(16, 64, dtype=torch.uint8), torch.ones(16, 2).half()
    assert PackedInt4Weight(levels_NH, numbers_NG).packed_bytes == 16 * 64 + 16 * 2 * 2
    assert PackedInt4Weight(levels_NH, numbers_NG, zero_NG=numbers_NG).packed_bytes == 16 * 64 + 2 * 16 * 2 * 2
    assert PackedInt4Weight(levels_NH, numbers_NG, min_NG=numbers_NG).packed_bytes == 16 * 64 + 2 * 16 * 2 * 2


@pytest.mark.usefixtures("every_set")
def test_groups_that_are_no_whole_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="groups of 48 inputs"):
        NativeInt4Linear(random_weight(16, 96, 48))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_inputs", [64, 33])
def test_without_a_kernel_rows_are_multiplied_by_the_rounded_weight(n_inputs: int, dtype: torch.dtype) -> None:
    weight_NK, bias_N = random(50, n_inputs, dtype=dtype), random(50, dtype=dtype, seed=1)
    rows_RTK = random(3, 2, n_inputs, dtype=dtype, seed=2)
    expected_RTN = functional.linear(rows_RTK, quantize_int4(weight_NK).dequantized().to(dtype), bias_N)
    torch.testing.assert_close(Int4Linear(weight_NK, bias_N)(rows_RTK), expected_RTN, rtol=0.02, atol=0.02)


def test_without_a_kernel_a_large_weight_is_widened_in_pieces_without_a_gap() -> None:
    weight_NK, rows_RK = random(3000, 2048, dtype=torch.float32), random(2, 2048, dtype=torch.float32, seed=1)
    linear = Int4Linear(weight_NK)
    torch.testing.assert_close(linear(rows_RK), rows_RK @ linear.weight.T, rtol=1e-4, atol=1e-3)


def test_without_a_kernel_the_weight_takes_half_a_byte_for_each_number() -> None:
    assert Int4Linear(random(128, 64)).span.n_bytes == 128 * 64 // 2


def test_other_dtypes_and_devices_are_left_to_others() -> None:
    assert Int4Linear.supports(torch.empty(50, 33, dtype=torch.float16))
    assert not Int4Linear.supports(torch.empty(50, 32, dtype=torch.float64))
    assert not Int4Linear.supports(torch.empty(50, 32, device="meta"))


def packed_of(weight: Int4Weight) -> PackedInt4Weight:
    return PackedInt4Weight(pack_levels(weight.levels_NK), weight.scale_NG, weight.zero_NG)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_weight_that_files_hold_is_computed_in_pieces_as_in_one(dtype: torch.dtype) -> None:
    weight = random_weight(5000, 1024, 64)
    packed = packed_of(weight)
    assert (packed.shape, packed.group_size) == ((5000, 1024), 64)
    assert torch.equal(packed.unpacked().levels_NK, weight.levels_NK)
    assert torch.equal(packed.dequantized(dtype), weight.dequantized().to(dtype))


def test_without_a_kernel_zeros_count() -> None:
    weight, rows_RK = random_weight(48, 64, 32), random(3, 64, dtype=torch.float32, seed=2)
    linear = Int4Linear(Int4Parameter.of(packed_of(weight), torch.float32))
    torch.testing.assert_close(linear(rows_RK), rows_RK @ weight.dequantized().T, rtol=1e-4, atol=1e-3)


def test_weights_that_differ_in_groups_or_zeros_are_not_joined() -> None:
    some, others = packed_of(random_weight(16, 64, 32)), packed_of(random_weight(32, 64, 32))
    symmetric = PackedInt4Weight(some.levels_NH, some.scale_NG)
    minima = PackedInt4Weight(some.levels_NH, some.scale_NG, min_NG=some.scale_NG)
    wide = packed_of(random_weight(16, 64, 64))

    def whole(*packed: PackedInt4Weight) -> torch.Tensor | None:
        return joined([Int4Parameter.of(each, torch.bfloat16) for each in packed])

    together = whole(some, others, some)
    assert isinstance(together, Int4Parameter)
    expected_NK = torch.cat([each.unpacked().dequantized() for each in (some, others, some)])
    assert torch.equal(together.packed.unpacked().dequantized(), expected_NK)
    for other in (symmetric, minima, wide):
        alone = whole(other, other)
        assert isinstance(alone, Int4Parameter)
        numbers_NK = torch.cat([other.dequantized(torch.float32)] * 2)
        assert torch.equal(alone.packed.dequantized(torch.float32), numbers_NK)
        assert whole(some, other) is None
    assert joined([Int4Parameter.of(some, torch.bfloat16), random(16, 64)]) is None


def test_a_parameter_the_other_way_round_stands_for_the_same_numbers() -> None:
    packed = PackedInt4Weight(pack_levels(random_weight(6, 64, 32).levels_NK), random(6, 2, dtype=torch.float16))
    parameter = Int4Parameter.of(packed, torch.bfloat16)
    turned = parameter.t()
    assert isinstance(turned, Int4Parameter)
    assert (parameter.shape, turned.shape, turned.t().shape) == ((6, 64), (64, 6), (6, 64))
    assert torch.equal(turned.dequantized(), parameter.dequantized().t())
    assert turned.dequantized().is_contiguous()
    assert turned.packed is packed
