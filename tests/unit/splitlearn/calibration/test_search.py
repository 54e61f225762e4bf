import pytest
import torch

from splitlearn.backends.cpu.linear.int4 import Int4Weight, quantize_int4
from splitlearn.calibration.search import search_int4
from splitlearn.errors import BadCheckpoint

N, K = 24, 256


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def error(weight_NK: torch.Tensor, found: Int4Weight, importance_K: torch.Tensor) -> float:
    """Computed anew, in fp64."""
    off_NK = weight_NK.double() - found.dequantized().double()
    return float((off_NK.square() * importance_K.double()).sum())


WEIGHTS = {
    "normal": random(N, K) * 0.02,
    "with outliers": random(N, K) * (1 + 30 * (random(N, K, seed=1) > 2.5)),
    "all above zero": random(N, K).abs() + 5,
    "far from zero": random(N, K) * 1e-3 + 100,
    "nothing": torch.zeros(N, K),
    "nothing but one": torch.zeros(N, K).index_fill_(1, torch.tensor([7]), -3.0),
    "very small": random(N, K) * 1e-6,
    "smaller than float16 holds": random(N, K) * 1e-12,
    "large": random(N, K).clamp(-3, 3) * 8000,
    "as large as 15 levels of float16": random(N, K).clamp(-1, 1) * 32000,
    "of many sizes": random(N, K) * 10.0 ** torch.linspace(-6, 3, K),
    "equal": torch.full((N, K), 0.3),
}
IMPORTANCE = {
    "equal": torch.ones(K),
    "of many sizes": 10.0 ** (3 * random(K, seed=2)),
    "huge": random(K, seed=2).square() * 1e30,
    "tiny": random(K, seed=2).square() * 1e-30,
    "nothing for some": random(K, seed=2).square() * (random(K, seed=3) > 0),
    "of one input": torch.zeros(K).index_fill_(0, torch.tensor([40]), 2.0),
}


@pytest.mark.parametrize("zero_points", [False, True])
@pytest.mark.parametrize("group_size", [32, 64, 128])
@pytest.mark.parametrize("importance", IMPORTANCE)
@pytest.mark.parametrize("weight", WEIGHTS)
def test_the_error_is_never_greater_than_that_of_rounding_to_the_nearest(
    weight: str, importance: str, group_size: int, zero_points: bool
) -> None:
    weight_NK, importance_K = WEIGHTS[weight], IMPORTANCE[importance]
    found = search_int4(weight_NK, importance_K, group_size, zero_points=zero_points)
    nearest = error(weight_NK, quantize_int4(weight_NK, group_size), importance_K)
    assert error(weight_NK, found, importance_K) <= nearest * (1 + 1e-5)


@pytest.mark.parametrize("zero_points", [False, True])
@pytest.mark.parametrize("weight", WEIGHTS)
def test_levels_have_4_bits_and_what_belongs_to_groups_is_finite_in_float16(weight: str, zero_points: bool) -> None:
    found = search_int4(WEIGHTS[weight], IMPORTANCE["of many sizes"], 32, zero_points=zero_points)
    assert (found.levels_NK.dtype, found.scale_NG.dtype) == (torch.uint8, torch.float16)
    assert found.levels_NK.shape == (N, K)
    assert found.scale_NG.shape == (N, K // 32)
    assert found.levels_NK.max() <= 15
    # what loads them asks for it: `Int4Codes.obstacle`
    assert (found.scale_NG * 16).isfinite().all()
    assert (found.zero_NG is not None) == zero_points
    if found.zero_NG is not None:
        assert found.zero_NG.dtype == torch.float16
        assert (found.zero_NG.abs() <= 4094).all()


@pytest.mark.parametrize(("zero_points", "most"), [(False, 0.8), (True, 0.6)])
def test_of_normal_weights_the_error_is_much_smaller(zero_points: bool, most: float) -> None:
    weight_NK, importance_K = WEIGHTS["normal"], IMPORTANCE["of many sizes"]
    found = search_int4(weight_NK, importance_K, 32, zero_points=zero_points)
    assert error(weight_NK, found, importance_K) < most * error(weight_NK, quantize_int4(weight_NK), importance_K)


def test_what_matters_is_nearer_than_what_does_not() -> None:
    weight_NK = WEIGHTS["normal"]
    importance_K = torch.ones(K).index_fill_(0, torch.arange(0, K, 8), 1000.0)
    found = search_int4(weight_NK, importance_K, 32, zero_points=True)
    off_K = (weight_NK - found.dequantized()).square().mean(0)
    assert off_K[0::8].mean() < 0.5 * off_K[1::8].mean()


def test_weights_that_are_levels_already_stay_what_they_are() -> None:
    levels_NK = torch.randint(0, 16, (N, K), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    levels_NK[:, 0::32], levels_NK[:, 1::32] = 0, 15
    scale_NG = random(N, K // 32).half()
    zero_NG = (random(N, K // 32, seed=1) * 3 + 8).half()
    weight_NK = Int4Weight(levels_NK, scale_NG, zero_NG, 32).dequantized()
    found = search_int4(weight_NK, torch.ones(K), 32, zero_points=True)
    torch.testing.assert_close(found.dequantized(), weight_NK, rtol=0, atol=0.02 * float(scale_NG.abs().max()))


def test_a_large_weight_is_searched_in_pieces_as_in_one() -> None:
    weight_NK, importance_K = random(5000, K), IMPORTANCE["of many sizes"]
    whole = search_int4(weight_NK, importance_K, 32, zero_points=True)
    last = search_int4(weight_NK[-10:], importance_K, 32, zero_points=True)
    assert torch.equal(whole.levels_NK[-10:], last.levels_NK)
    assert torch.equal(whole.scale_NG[-10:], last.scale_NG)


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_numbers_that_are_not_finite_are_refused(value: float) -> None:
    weight_NK, importance_K = random(N, K), torch.ones(K)
    with pytest.raises(BadCheckpoint, match="not finite"):
        search_int4(weight_NK.index_fill(1, torch.tensor([3]), value), importance_K, 32, zero_points=False)
    with pytest.raises(BadCheckpoint, match="not finite"):
        search_int4(weight_NK, importance_K.index_fill(0, torch.tensor([3]), value), 32, zero_points=False)
