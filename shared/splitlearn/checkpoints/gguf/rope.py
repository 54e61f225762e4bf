"""How positions are rotated: what a GGUF file says of it as a config's rope_parameters."""

import math
from typing import Any

import torch

from splitlearn.checkpoints.gguf.metadata import Metadata

_TYPE, _FACTOR, _ORIGINAL = "rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length"
# Llama 3's own; files hold the factors that come of them in place of them
_LOW, _HIGH, _CONTEXT = 1.0, 4.0, 8192
_BASE = 10000.0


def rope_parameters(metadata: Metadata, head: int, factors: torch.Tensor | None) -> dict[str, Any]:
    """The parameters.

    Args:
        head: the size of a head.
        factors: what the frequencies are divided by, if the file says so.

    Raises:
        UnsupportedModel: a scaling that is not covered, with its name.
    """
    base = metadata.number("rope.freq_base", _BASE)
    scaling = metadata.text(_TYPE, "none")
    if factors is not None:
        if scaling != "none":
            raise metadata.refuse(f"rope_freqs and {_TYPE} {scaling}")
        return {"rope_theta": base, **_llama3(metadata, head, base, factors)}
    if scaling == "none":
        return {"rope_theta": base, "rope_type": "default"}
    if scaling == "linear":
        return {"rope_theta": base, "rope_type": "linear", "factor": metadata.number(_FACTOR)}
    raise metadata.refuse(f"{_TYPE} {scaling}")


def _llama3(metadata: Metadata, head: int, base: float, factors: torch.Tensor) -> dict[str, Any]:
    """The parameters of which these factors come."""
    factor = float(factors.max())
    wanted = [_factor(2 * math.pi * base ** (2 * i / head), factor) for i in range(head // 2)]
    if factors.shape != (len(wanted),) or not torch.allclose(factors, torch.tensor(wanted), rtol=1e-4):
        raise metadata.refuse("rope_freqs that are not Llama 3's")
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": _LOW,
        "high_freq_factor": _HIGH,
        "original_max_position_embeddings": _CONTEXT,
    }


def _factor(wavelength: float, factor: float) -> float:
    if wavelength < _CONTEXT / _HIGH:
        return 1.0
    if wavelength > _CONTEXT / _LOW:
        return factor
    smooth = (_CONTEXT / wavelength - _LOW) / (_HIGH - _LOW)
    return 1 / ((1 - smooth) / factor + smooth)
