"""Tokens and logits of tiny models are those of the file, to the bit, on machines that it knows."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from equivalence.digests import MODELS, Digests, digests_of, known, known_here, machine
from splitlearn.engine import DeviceThread


@pytest.fixture(scope="module")
def expected() -> Digests:
    digests = known_here()
    if digests is None:
        pytest.skip(
            f"digests.json has none for {json.dumps(machine())}, and bits depend on these; at a commit that is known "
            f"to be right, `python -m tests.equivalence.digests --write` adds them"
        )
    return digests


@pytest.fixture(scope="module")
def thread() -> Iterator[DeviceThread]:
    with DeviceThread(1) as thread:
        yield thread


@pytest.mark.parametrize("name", MODELS)
def test_tokens_and_logits_are_those_of_the_file(
    name: str, expected: Digests, tmp_path: Path, thread: DeviceThread
) -> None:
    found = dict(digests_of(name, tmp_path, thread))
    ours = {what: digests for what, digests in expected.items() if what.startswith(f"{name}, ")}
    weights = f"{name}, random weights"
    assert found.pop(weights) == ours.pop(weights), (
        "the random weights are others: nothing is said about the computation"
    )
    assert found == ours


def test_each_machine_is_in_the_file_once() -> None:
    machines = [json.dumps(each["machine"], sort_keys=True) for each in known()]
    assert len(machines) == len(set(machines))
