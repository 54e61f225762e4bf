"""The benchmark of structured answers: what it prints of masks, without a model."""

import re

import pytest

from splitlearn_client.structured.vocabulary import read_vocabulary
from tests.benchmarks.structured import CONSTRAINTS, large_tokenizer, print_masks


def test_for_each_constraint_the_time_to_add_a_mask_stands_beside_that_to_make_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_masks(read_vocabulary(large_tokenizer(600), 600, frozenset({0})), 5)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [*CONSTRAINTS]
    for line in lines:
        found = re.search(r"a mask takes ([0-9.]+) ms.*; adding it to the logits ([0-9.]+) ms a token; a step", line)
        assert found is not None
        assert all(float(each) > 0 for each in found.groups())
