import math

import pytest

from cleangpt.errors import TrainingSettingsError
from cleangpt.trainers.schedule import WarmupCosine, WarmupStableDecay


def test_the_rate_rises_stays_and_falls_to_nearly_zero() -> None:
    schedule = WarmupStableDecay(peak=1.0, warmup=10, decay=0.5)
    rates = [schedule.rate(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:51] == [1.0] * 42
    assert rates[75] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(0.02)
    # a decay shorter than a step leaves the last one at the peak
    assert WarmupStableDecay(peak=1.0, warmup=0, decay=0.01).rate(9, 10) == 1.0


def test_a_training_shorter_than_its_warm_up_never_exceeds_the_peak() -> None:
    for schedule in (WarmupStableDecay(peak=2.0, warmup=10, decay=1.0), WarmupCosine(peak=2.0, warmup=10)):
        assert max(schedule.rate(step, 5) for step in range(5)) <= 2.0


def test_no_warm_up_starts_at_the_peak() -> None:
    assert WarmupStableDecay(peak=1.0, warmup=0, decay=0.1).rate(0, 100) == 1.0
    assert WarmupCosine(peak=1.0, warmup=0).rate(0, 100) == 1.0


def test_the_cosine_passes_its_middle_and_ends_on_the_floor() -> None:
    schedule = WarmupCosine(peak=1.0, warmup=10, floor=0.2)
    rates = [schedule.rate(step, 111) for step in range(111)]
    assert rates[10] == 1.0
    assert rates[60] == pytest.approx(0.6)
    assert rates[110] == pytest.approx(0.2)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_a_training_of_one_step_has_a_rate() -> None:
    assert WarmupCosine(peak=1.0, warmup=0).rate(0, 1) == 1.0


@pytest.mark.parametrize("kind", [WarmupCosine, WarmupStableDecay])
@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((0.0, 0, 0.1), "learning rate has to be a finite number above 0, found 0.0"),
        ((-1e-3, 0, 0.1), "learning rate"),
        ((math.inf, 0, 0.1), "learning rate"),
        ((math.nan, 0, 0.1), "learning rate"),
        ((1.0, -1, 0.1), "warm-up have to be a finite number of 0 or more, found -1"),
        ((1.0, 0, 1.5), "is a share between 0 and 1, found 1.5"),
        ((1.0, 0, math.nan), "is a share between 0 and 1"),
    ],
)
def test_what_gives_no_rate_is_refused(
    kind: type[WarmupCosine] | type[WarmupStableDecay], values: tuple[float, int, float], said: str
) -> None:
    with pytest.raises(TrainingSettingsError, match=said):
        kind(*values)
