"""The defaults of sampling that a model's authors give in its generation_config.json."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, Self

from splitlearn_client.errors import BadModelFiles
from splitlearn_client.sampling import SamplingSettings

FILE: Final = "generation_config.json"
Source = Literal["auto", "vllm"]

# The ranges of the API's fields, or of transformers where those are wider.
_RANGES: Final[Mapping[str, tuple[str, Callable[[float], bool]]]] = {
    "temperature": ("at least 0", lambda value: value >= 0),
    "top_p": ("more than 0 and at most 1", lambda value: 0 < value <= 1),
    "top_k": ("a whole number of at least 0, or -1 for all", lambda value: value >= -1 and value == int(value)),
    "min_p": ("from 0 to 1", lambda value: 0 <= value <= 1),
    "repetition_penalty": ("more than 0", lambda value: value > 0),
    "max_new_tokens": ("a whole number of at least 1", lambda value: value >= 1 and value == int(value)),
}


@dataclass(frozen=True)
class GenerationDefaults:
    """Values for fields that a request leaves out."""

    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    max_tokens: int | None = None
    """Limit of a chat answer; None: up to the end of the context."""

    @classmethod
    def read(cls, weights: Path, source: Source) -> Self:
        """Reads the defaults as vLLM does: `do_sample` is ignored, and null counts as absent.

        Args:
            source: "auto" reads the model's file if it has one; "vllm" takes OpenAI's values for every model.

        Raises:
            BadModelFiles: the file is no JSON object, or a value in it is out of range.
        """
        if source == "vllm":
            return cls()
        advised = read_generation_config(weights)
        found: dict[str, Any] = {
            name: _checked(weights, name, advised[name]) for name in _RANGES if advised.get(name) is not None
        }
        max_tokens = found.pop("max_new_tokens", None)
        if "top_k" in found:
            found["top_k"] = max(0, int(found["top_k"]))
        # transformers requires floats, and JSON may write 2.0 as 2
        found = {name: value if name == "top_k" else float(value) for name, value in found.items()}
        sampling = replace(SamplingSettings(), **found)
        return cls(sampling, None if max_tokens is None else int(max_tokens))


def read_generation_config(weights: Path) -> Mapping[str, Any]:
    """The file's fields; empty for a model without one.

    Raises:
        BadModelFiles: it is no JSON object.
    """
    file = weights / FILE
    if not file.exists():
        return {}
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadModelFiles(f"{file} is no JSON ({error}); correct or remove it") from error
    if not isinstance(fields, dict):
        raise BadModelFiles(f"{file} is no JSON object; correct or remove it")
    return fields


def _checked(weights: Path, name: str, value: object) -> float:
    wanted, fits = _RANGES[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not (_is_finite(value) and fits(value)):
        raise BadModelFiles(
            f"{weights / FILE}: {name} is {value!r}, but must be {wanted}; correct the file, or ignore its values with "
            "--generation-config vllm"
        )
    return value


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        # an integer too large for a float
        return False
