"""Shapes: R rows, K inputs, N outputs."""

from collections.abc import Callable

import pytest
import torch

from splitlearn.backends.cpu.linear import NativeInt8Linear, NativeLinear
from splitlearn.backends.cpu.linear import screen as module
from splitlearn.backends.cpu.linear.screen import Screen, screen_bytes

pytestmark = pytest.mark.usefixtures("every_set")

N_OUTPUTS, N_INPUTS = 5003, 64


def flat(dice: torch.Generator) -> torch.Tensor:
    return torch.randn(N_OUTPUTS, N_INPUTS, generator=dice)


def peaked(dice: torch.Generator) -> torch.Tensor:
    """A few outputs are much larger than the others."""
    return flat(dice) * torch.rand(N_OUTPUTS, 1, generator=dice) ** 8


def with_outliers(dice: torch.Generator) -> torch.Tensor:
    """One input is so large that the others are rounded to little in 8 bits."""
    weight_NK = flat(dice)
    weight_NK[:, 0] *= 40
    return weight_NK


def alike(dice: torch.Generator) -> torch.Tensor:
    """Each output is there ten times."""
    return flat(dice)[: N_OUTPUTS // 10 + 1].repeat(10, 1)[:N_OUTPUTS]


def rows(dice: torch.Generator) -> torch.Tensor:
    """One with an outlier, whose other numbers are rounded to little in 16 bits."""
    rows_RK = torch.randn(3, N_INPUTS, generator=dice)
    rows_RK[1, 7] = 3000.0
    return rows_RK.bfloat16()


@pytest.mark.parametrize("weights", [flat, peaked, with_outliers, alike])
@pytest.mark.parametrize("count", [1, 3, 40])
def test_the_likeliest_are_exact_and_the_others_exact_or_left_out(
    weights: Callable[[torch.Generator], torch.Tensor], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # however many
    monkeypatch.setattr(module, "_MOST", 1.0)
    n_left_out = 0
    for seed in range(5):
        dice = torch.Generator().manual_seed(seed)
        n_left_out += left_out(NativeLinear(weights(dice).bfloat16()), rows(dice), count)
    assert n_left_out


def left_out(head: NativeLinear, rows_RK: torch.Tensor, count: int) -> int:
    """Checks that logits are exact where they have to be; how many were left out."""
    exact_RN, found_RN = head(rows_RK), Screen(head).likeliest(rows_RK, count)
    assert found_RN is not None
    smallest_R1 = exact_RN.float().topk(count).values[:, -1:]
    needed_RN, held_RN = exact_RN >= smallest_R1, found_RN > -torch.inf
    assert torch.equal(found_RN[needed_RN], exact_RN[needed_RN])
    assert torch.equal(found_RN[held_RN], exact_RN[held_RN])
    assert torch.equal(found_RN.argmax(1), exact_RN.argmax(1))
    return int((~held_RN).sum())


def weights_that_round_apart() -> tuple[torch.Tensor, torch.Tensor]:
    """Nearly equal logits of weights whose scales differ, so that some are rounded up and some down."""
    dice = torch.Generator().manual_seed(0)
    scales_N = 1 + 0.2 * torch.rand(N_OUTPUTS, generator=dice)
    weight_NK = torch.stack((scales_N, 0.03 + 0.001 * torch.rand(N_OUTPUTS, generator=dice)), 1)
    # one in a panel, as all of a panel are computed
    weight_NK[torch.arange(N_OUTPUTS) % 16 > 0, 1] = -0.03
    weight_NK[N_OUTPUTS // 2 :, 1] = -0.03
    return weight_NK, torch.tensor([[0.0, 1.0]])


def rows_that_round_apart() -> tuple[torch.Tensor, torch.Tensor]:
    """Of two numbers beside a large one, the smaller is rounded down and the other up, to twice as much."""
    weight_NK = torch.zeros(N_OUTPUTS, 4)
    weight_NK[:, 0], weight_NK[N_OUTPUTS // 2 :, 3] = 127.0, -127.0
    weight_NK[40, 1], weight_NK[70, 2] = 100.0, 90.0
    return weight_NK, torch.tensor([[0.0, 0.0148, 0.0158, 1000.0]])


def sums_that_round_apart() -> tuple[torch.Tensor, torch.Tensor]:
    """Exact sums and rounded ones lie on either side of the middle between two bf16 numbers, and some far below."""
    dice = torch.Generator().manual_seed(0)
    weight_NK = torch.randint(-64, 65, (N_OUTPUTS, 4), generator=dice).float()
    weight_NK[:, 0], weight_NK[:, 3] = 127.0, 0.0
    weight_NK[:, 1] = torch.randint(48, 51, (N_OUTPUTS,), generator=dice)
    weight_NK[N_OUTPUTS // 2 :, 0] = -127.0
    rows_RK = torch.tensor([2.0, 0.03, 0.0007, 3.0]).repeat(8, 1)
    rows_RK[:, 3] += torch.arange(8) / 16
    return weight_NK, rows_RK


@pytest.mark.parametrize("case", [weights_that_round_apart, rows_that_round_apart, sums_that_round_apart])
def test_no_rounding_leaves_out_what_is_among_the_likeliest(
    case: Callable[[], tuple[torch.Tensor, torch.Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST", 1.0)
    weight_NK, rows_RK = case()
    assert left_out(NativeLinear(weight_NK.bfloat16()), rows_RK.bfloat16(), 1)


def test_more_than_there_are_is_all() -> None:
    head = NativeLinear(torch.randn(40, N_INPUTS).bfloat16())
    assert Screen(head).likeliest(torch.ones(1, N_INPUTS).bfloat16(), 50) is None


def test_where_too_many_may_be_among_the_likeliest_it_says_so() -> None:
    head = NativeLinear(torch.ones(N_OUTPUTS, N_INPUTS).bfloat16())
    assert Screen(head).likeliest(torch.ones(2, N_INPUTS).bfloat16(), 1) is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_left_to_the_head(bad: float) -> None:
    head = NativeLinear(torch.randn(N_OUTPUTS, N_INPUTS).bfloat16())
    rows_RK = torch.ones(2, N_INPUTS).bfloat16()
    rows_RK[1, 3] = bad
    assert Screen(head).likeliest(rows_RK, 1) is None


def test_only_large_exact_heads_without_a_bias_are_screened(monkeypatch: pytest.MonkeyPatch) -> None:
    weight_NK = torch.randn(48, N_INPUTS).bfloat16()
    assert not Screen.supports(NativeLinear(weight_NK))
    monkeypatch.setattr(module, "_FEWEST_WEIGHTS", 48 * N_INPUTS)
    assert Screen.supports(NativeLinear(weight_NK))
    assert not Screen.supports(NativeLinear(weight_NK, torch.zeros(48).bfloat16()))
    assert not Screen.supports(NativeInt8Linear(weight_NK))
    assert not Screen.supports(torch.nn.Linear(N_INPUTS, 48))


@pytest.mark.parametrize("shape", [(48, 64), (50, 66)])
def test_its_memory_is_known_beforehand(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    assert screen_bytes(*shape) == 0
    monkeypatch.setattr(module, "_FEWEST_WEIGHTS", 0)
    screen = Screen(NativeLinear(torch.randn(*shape).bfloat16()))
    rounded = screen._rounded
    held = screen.span.n_bytes + rounded.scale_N.nbytes + rounded._sums.nbytes + screen._reach_N.nbytes
    # whole panels of outputs, and of inputs four at a time
    assert screen_bytes(*shape) <= held <= screen_bytes(64, 68)
