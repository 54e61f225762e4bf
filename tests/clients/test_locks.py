"""The lock files are made from what they should be, and not long ago."""

import datetime

import pytest

from tests.clients.environments import ALL, Environment

YEAR = datetime.timedelta(days=366)


@pytest.mark.parametrize("environment", ALL, ids=lambda environment: environment.name)
def test_a_lock_names_every_program_and_is_not_over_a_year_old(environment: Environment) -> None:
    age = datetime.datetime.now(datetime.UTC).date() - environment.locked_on()
    assert age < YEAR, f"lock it anew: python -m tests.clients.lock {environment.name}, then make test-clients"
    lines = environment.lock.read_text(encoding="utf-8").splitlines()[1:]
    locked = {line.partition("==")[0].lower().replace("_", "-") for line in lines}
    assert {name.partition("[")[0] for name in environment.requirements} <= locked
    assert all("==" in line for line in lines)
