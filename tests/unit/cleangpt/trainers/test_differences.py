"""Differences between two trainings, in words."""

from cleangpt.trainers.differences import changes_between, in_words
from cleangpt.trainers.schedule import WarmupCosine, WarmupStableDecay


def told(was: object, now: object) -> str:
    return in_words(changes_between({"schedule": str(was)}, {"schedule": str(now)}))


def test_of_two_schedules_of_one_kind_the_numbers_that_differ_are_told() -> None:
    was = WarmupStableDecay(peak=0.003, warmup=10, decay=0.2)
    assert told(was, WarmupStableDecay(peak=0.001, warmup=10, decay=0.2)) == (
        "schedule's peak was 0.003 and is now 0.001"
    )
    assert told(was, WarmupStableDecay(peak=1e-05, warmup=12, decay=0.2)) == (
        "schedule's peak was 0.003 and is now 1e-05, schedule's warmup was 10 and is now 12"
    )


def test_schedules_of_two_kinds_and_foreign_ones_are_other_schedules() -> None:
    was = WarmupStableDecay(peak=0.003, warmup=10, decay=0.2)
    assert told(was, WarmupCosine(peak=0.003, warmup=10)) == "other schedule"
    assert told("Steps(rates=(0.1, 0.2, 0.3), names=['a', 'b'])", "Steps(rates=(0.1, 0.2, 0.4), names=['a', 'b'])") == (
        "other schedule"
    )
    assert told("Flat()", "Flat(rate=1)") == "schedule was Flat() and is now Flat(rate=1)"
