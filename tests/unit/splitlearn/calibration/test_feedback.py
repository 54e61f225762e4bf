import pytest
import torch

from splitlearn.backends.cpu.linear.int4 import quantize_int4
from splitlearn.calibration.feedback import output_errors, round_int4
from splitlearn.calibration.search import search_int4
from splitlearn.errors import BadCheckpoint

N, K = 40, 128


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def moments(rows_TK: torch.Tensor) -> torch.Tensor:
    return rows_TK.T @ rows_TK / len(rows_TK)


def correlated_rows(n_rows: int, seed: int = 0) -> torch.Tensor:
    """Inputs that follow from a few, of many sizes."""
    return random(n_rows, 24, seed=seed) @ random(24, K, seed=9) * 10.0 ** torch.linspace(-2, 1, K)


ROWS = {
    "correlated": correlated_rows(500),
    "not correlated": random(500, K),
    "fewer than inputs": correlated_rows(5),
    "one": correlated_rows(1),
    "nothing": torch.zeros(3, K),
    "nothing for some inputs": random(100, K) * (torch.arange(K) % 3 > 0),
    "all alike": torch.ones(10, K),
    "huge": correlated_rows(50) * 1e12,
    "tiny": correlated_rows(50) * 1e-12,
}
WEIGHTS = {
    "normal": random(N, K) * 0.02,
    "nothing": torch.zeros(N, K),
    "of many sizes": random(N, K) * 10.0 ** torch.linspace(-6, 3, K),
    "far from zero": random(N, K) * 0.01 + 100,
    "in bf16": random(N, K).bfloat16(),
}


@pytest.mark.parametrize("zero_points", [False, True])
@pytest.mark.parametrize("group_size", [32, 64, 128])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("weight", WEIGHTS)
def test_no_output_is_off_by_more_than_with_rounding_to_the_nearest(
    weight: str, rows: str, group_size: int, zero_points: bool
) -> None:
    weight_NK, moments_KK = WEIGHTS[weight], moments(ROWS[rows])
    found = round_int4(weight_NK, moments_KK, group_size, zero_points=zero_points)
    nearest_N = output_errors(weight_NK, quantize_int4(weight_NK, group_size), moments_KK)
    assert (output_errors(weight_NK, found, moments_KK) <= nearest_N * (1 + 1e-6)).all()
    assert found.levels_NK.max() <= 15
    assert found.scale_NG.isfinite().all()


def test_an_output_error_is_the_mean_square_over_the_rows() -> None:
    weight_NK, rows_TK = WEIGHTS["normal"], ROWS["correlated"]
    found = quantize_int4(weight_NK)
    off_TN = rows_TK.double() @ (weight_NK - found.dequantized()).double().T
    expected_N = off_TN.square().mean(0)
    torch.testing.assert_close(output_errors(weight_NK, found, moments(rows_TK)), expected_N, rtol=1e-3, atol=0)


def test_outputs_of_other_rows_of_the_kind_are_nearer_than_by_the_search_alone() -> None:
    weight_NK, moments_KK, others_TK = WEIGHTS["normal"], moments(ROWS["correlated"]), correlated_rows(300, seed=5)
    ways = {
        "nearest": quantize_int4(weight_NK),
        "searched": search_int4(weight_NK, moments_KK.diagonal(), 32, zero_points=False),
        "fed back": round_int4(weight_NK, moments_KK, 32, zero_points=False),
        "fed back, with zeros": round_int4(weight_NK, moments_KK, 32, zero_points=True),
    }
    off = {name: (others_TK @ (weight_NK - way.dequantized()).T).square().mean().item() for name, way in ways.items()}
    assert off["searched"] < 0.9 * off["nearest"]
    assert off["fed back"] < 0.8 * off["searched"]
    assert off["fed back, with zeros"] < off["fed back"]


def test_what_a_group_s_outputs_are_off_by_the_groups_behind_it_make_up_for() -> None:
    # four groups of the same inputs, which say nothing of each other
    rows_TK, weight_NK = random(500, 32).repeat(1, 4), WEIGHTS["normal"]
    searched = search_int4(weight_NK, torch.ones(K), 32, zero_points=False)
    fed_back = round_int4(weight_NK, moments(rows_TK), 32, zero_points=False)
    errors = [output_errors(weight_NK, each, moments(rows_TK)).mean() for each in (searched, fed_back)]
    assert errors[1] < 0.5 * errors[0]


def test_outputs_do_not_depend_on_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    weight_NK, moments_KK = WEIGHTS["normal"], moments(ROWS["correlated"])
    whole = round_int4(weight_NK, moments_KK, 32, zero_points=True)
    monkeypatch.setattr("splitlearn.calibration.feedback._NUMBERS_AT_ONCE", 7 * K)
    pieces = round_int4(weight_NK, moments_KK, 32, zero_points=True)
    # sums of a product may be in another order
    assert (whole.levels_NK != pieces.levels_NK).float().mean() < 0.01
    torch.testing.assert_close(whole.scale_NG, pieces.scale_NG, rtol=0.01, atol=0)


def test_errors_of_outputs_are_those_of_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    weight_NK, moments_KK = WEIGHTS["normal"], moments(ROWS["correlated"])
    found = round_int4(weight_NK, moments_KK, 32, zero_points=True)
    whole_N = output_errors(weight_NK, found, moments_KK)
    monkeypatch.setattr("splitlearn.calibration.feedback._NUMBERS_AT_ONCE", 7 * K)
    torch.testing.assert_close(output_errors(weight_NK, found, moments_KK), whole_N, rtol=1e-3, atol=0)


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_numbers_that_are_not_finite_are_refused(value: float) -> None:
    weight_NK, moments_KK = random(N, K), moments(ROWS["not correlated"])
    with pytest.raises(BadCheckpoint, match="not finite"):
        round_int4(weight_NK.index_fill(1, torch.tensor([3]), value), moments_KK, 32, zero_points=False)
    with pytest.raises(BadCheckpoint, match="not finite"):
        round_int4(weight_NK, moments_KK.index_fill(1, torch.tensor([3]), value), 32, zero_points=False)
