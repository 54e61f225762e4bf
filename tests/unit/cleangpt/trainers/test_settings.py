from typing import Any

import pytest

from cleangpt.errors import TrainingSettingsError
from cleangpt.trainers import TrainingSettings


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "exactly one of them; found epochs=None, max_steps=None"),
        ({"epochs": 1, "max_steps": 1}, "exactly one of them"),
        ({"epochs": 0}, "epochs has to be a whole number of 1 or more, found 0"),
        ({"epochs": 1.5}, "epochs has to be a whole number of 1 or more, found 1.5"),
        ({"max_steps": "2"}, "max_steps has to be a whole number of 1 or more, found '2'"),
        ({"epochs": 1, "accumulate": 0}, "accumulate"),
        ({"epochs": 1, "evaluate_every": -1}, "evaluate_every"),
        ({"epochs": 1, "clip_norm": 0.0}, "clip_norm"),
        ({"epochs": 1, "weight_decay": -0.1}, "weight_decay has to be a finite number of 0 or more, found -0.1"),
        ({"epochs": 1, "weight_decay": float("nan")}, "weight_decay"),
    ],
)
def test_what_no_training_can_have_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(TrainingSettingsError, match=said):
        TrainingSettings(**given)
