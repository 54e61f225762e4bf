import pytest

from cleangpt.schedule import WarmupStableDecay


def test_the_rate_rises_stays_and_falls_to_nearly_zero() -> None:
    schedule = WarmupStableDecay(peak=1.0, warmup=10, decay=0.5)
    rates = [schedule.rate(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:51] == [1.0] * 42
    assert rates[75] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(0.02)


def test_a_training_shorter_than_its_warm_up_never_exceeds_the_peak() -> None:
    schedule = WarmupStableDecay(peak=2.0, warmup=10, decay=1.0)
    assert max(schedule.rate(step, 5) for step in range(5)) <= 2.0


def test_no_warm_up_starts_at_the_peak() -> None:
    assert WarmupStableDecay(peak=1.0, warmup=0, decay=0.1).rate(0, 100) == 1.0
