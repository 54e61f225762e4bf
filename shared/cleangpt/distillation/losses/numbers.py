"""Checks of the numbers that losses are made with."""

import math

from cleangpt.errors import TrainingSettingsError


def check_above_zero(name: str, value: float) -> None:
    """Raises TrainingSettingsError unless the value is above 0 and finite."""
    if not 0 < value < math.inf:
        raise TrainingSettingsError(f"{name} has to be a finite number above 0, found {value}")


def check_share(name: str, value: float) -> None:
    """Raises TrainingSettingsError unless the value is between 0 and 1."""
    if not 0 <= value <= 1:
        raise TrainingSettingsError(f"{name} is a share between 0 and 1, found {value}")
