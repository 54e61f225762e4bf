"""Cut a Hugging Face causal language model into parts and run them.

The names below are imported when they are first used, so that light modules such as `splitlearn.model.plan` stay light.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "BaseBottomModel": "split_models.base",
    "BaseSplitModel": "split_models.base",
    "BaseTopModel": "split_models.base",
    "BaseTrunkModel": "split_models.base",
    "ModelFactory": "split_models.factory",
    "ModelRegistry": "split_models.registry",
    "Part": "model.part",
    "SplitPlan": "model.plan",
    "decider_for": "checkpoints.deciders",
    "load_part": "checkpoints.load",
    "load_parts": "checkpoints.load",
}

__all__ = [
    *_HOMES,
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
