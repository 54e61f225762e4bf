"""Cut a Hugging Face causal language model into parts and run them.

The names below are imported when they are first used, so that `splitlearn.plan` and its like stay light.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "BaseBottomModel": "core",
    "BaseSplitModel": "core",
    "BaseTopModel": "core",
    "BaseTrunkModel": "core",
    "ModelFactory": "factory",
    "ModelRegistry": "registry",
    "Part": "part",
    "SplitPlan": "plan",
    "decider_for": "deciders",
    "load_part": "loading",
    "load_parts": "loading",
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
