from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch

from cleangpt.distillation.trunks import GROUP, NAME, opened
from splitlearn.checkpoints.load import load_part
from splitlearn.errors import BadPlan


def test_a_trunk_here_comes_with_the_ends_that_fit_it(tiny_weights: Path) -> None:
    with opened(tiny_weights, "2-4") as trunk:
        trunk.ends.check(trunk.teacher.fingerprint, "the trunk")
        assert trunk.part is not None
        assert list(trunk.part.layers) == [2, 3]
        hidden_BTD = torch.randn(1, 3, 64)
        expected_BTD = load_part(tiny_weights, "2-4", dtype="float32").run(hidden_BTD)
        torch.testing.assert_close(trunk.teacher.hidden(hidden_BTD, [3]), expected_BTD)


def test_layers_that_the_model_does_not_have_are_refused(tiny_weights: Path) -> None:
    with pytest.raises(BadPlan, match="2-9"), opened(tiny_weights, "2-9"):
        pass


def test_one_installed_package_opens_addresses() -> None:
    [found] = entry_points(group=GROUP, name=NAME)
    assert found.value == "splitlearn_cli.remote_teacher:RemoteTrunk"
