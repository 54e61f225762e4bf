"""AMX beside a scalar emulation of its tiles, and beside the set that lacks them.

Shapes: K inputs, N outputs, R rows.
"""

from collections.abc import Iterator

import pytest
import torch

from splitlearn.backends.cpu.kernels import available_sets, kernels
from splitlearn.backends.cpu.linear import NativeInt8Linear, NativeLinear

pytestmark = pytest.mark.skipif("amx" not in available_sets(), reason="no AMX, or no compiler that knows it")
_TILE = 32


@pytest.fixture
def forced(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Whoever asks for another set forgets the one before."""
    kernels.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    kernels.cache_clear()


def random(*shape: int, seed: int) -> torch.Tensor:
    """Numbers of very unequal sizes, so that the order of a sum shows."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.exp(2 * torch.randn(shape, generator=generator))
    return (torch.randn(shape, generator=generator) * sizes).bfloat16()


def tiles(row_K: torch.Tensor, weight_NK: torch.Tensor) -> torch.Tensor:
    """Sums in fp32 as tiles make them, which is how Intel documents TDPBF16PS; then those pair by pair.

    Products of two bf16 numbers are exact in fp32, so a product and a sum are rounded once.
    """
    products_NK = row_K.float() * weight_NK.float()
    sums_N, n_whole = torch.zeros(weight_NK.shape[0]), row_K.shape[0] // _TILE * _TILE
    for begin in range(0, n_whole, _TILE):
        even_N, odd_N = torch.zeros_like(sums_N), torch.zeros_like(sums_N)
        for k in range(begin, begin + _TILE, 2):
            even_N += products_NK[:, k]
            odd_N += products_NK[:, k + 1]
        sums_N += even_N + odd_N
    return sums_N


@pytest.mark.parametrize("n_inputs", [32, 96, 320])
def test_bf16_is_summed_in_the_order_of_the_emulated_tiles(forced: pytest.MonkeyPatch, n_inputs: int) -> None:
    forced.setenv("SPLITLEARN_KERNELS", "amx")
    for seed in range(20):
        row_K, weight_NK = random(n_inputs, seed=seed), random(40, n_inputs, seed=100 + seed)
        expected_N = tiles(row_K, weight_NK)
        # what is nearly the sum is subtracted, so that the last bits of fp32 are those of the result
        bias_N = -expected_N.bfloat16()
        found_N = NativeLinear(weight_NK, bias_N)(row_K[None])[0]
        assert torch.equal(found_N, (expected_N + bias_N.float()).bfloat16())


@pytest.mark.parametrize("n_rows", [1, 5, 16, 33])
@pytest.mark.parametrize("n_inputs", [16, 64, 82, 2000])
def test_int8_levels_have_the_same_sums_with_and_without_tiles(
    forced: pytest.MonkeyPatch, n_inputs: int, n_rows: int
) -> None:
    rows_RK, weight_NK = random(n_rows, n_inputs, seed=1), random(50, n_inputs, seed=2)
    found = []
    for name in ("amx", "avx512_bf16"):
        forced.setenv("SPLITLEARN_KERNELS", name)
        kernels.cache_clear()
        found.append(NativeInt8Linear(weight_NK)(rows_RK))
    assert torch.equal(*found)
