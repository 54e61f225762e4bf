"""What other packages may import from the top, and what that costs."""

import subprocess
import sys

import pytest

import splitlearn
from splitlearn import errors


def test_the_public_names_are_these() -> None:
    assert splitlearn.__all__ == [
        "BaseBottomModel",
        "BaseSplitModel",
        "BaseTopModel",
        "BaseTrunkModel",
        "ModelFactory",
        "ModelRegistry",
        "Part",
        "SplitPlan",
        "decider_for",
        "load_part",
        "load_parts",
    ]
    assert all(getattr(splitlearn, name) is not None for name in splitlearn.__all__)
    assert set(splitlearn.__all__) <= set(dir(splitlearn))


def test_another_name_is_refused_as_by_any_module() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        splitlearn.Nothing  # noqa: B018


def test_the_plan_is_light() -> None:
    program = (
        "import sys, splitlearn.model.plan\n"
        "print('transformers' in sys.modules, 'splitlearn.split_models.factory' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_every_error_is_below_one_root_and_drawn_in_the_tree() -> None:
    found = {name: error for name, error in vars(errors).items() if isinstance(error, type)}
    assert errors.__doc__ is not None
    for name, error in found.items():
        assert issubclass(error, errors.SplitError)
        assert name in errors.__doc__
