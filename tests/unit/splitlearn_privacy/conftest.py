from functools import partial
from pathlib import Path

import pytest

from splitlearn_privacy.cut_model import CutModel
from support.attack_scene import Scene, scene_of


@pytest.fixture(scope="session")
def cut_model(tiny_weights: Path) -> CutModel:
    """The tiny llama with its default cut, 1-4."""
    return CutModel.load(tiny_weights, None)


@pytest.fixture(scope="session")
def scene(cut_model: CutModel) -> Scene:
    return partial(scene_of, cut_model)
