"""Metadata of a GGUF file, with their types checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splitlearn.checkpoints.quantized import unsupported
from splitlearn.errors import BadCheckpoint, UnsupportedModel

_MOST = 2**31


@dataclass(frozen=True)
class Metadata:
    """Keys of `architecture` are asked for without its name."""

    path: Path
    architecture: str
    values: Mapping[str, Any]

    @classmethod
    def of(cls, path: Path, values: Mapping[str, Any]) -> "Metadata":
        """Raises BadCheckpoint if they do not name the architecture."""
        architecture = values.get("general.architecture")
        if not isinstance(architecture, str):
            raise BadCheckpoint(f"{path} has no general.architecture; download it again")
        return cls(path, architecture, values)

    def refuse(self, what: str) -> UnsupportedModel:
        """The error of something that is not covered."""
        return unsupported(str(self.path), f"GGUF, {self.architecture} with {what}")

    def has(self, key: str) -> bool:
        """Whether there is such a key, and it is not 0."""
        return bool(self.values.get(self._key(key)))

    def size(self, key: str, default: int | None = None) -> int:
        """A whole number above 0.

        Raises:
            BadCheckpoint: it is none, or is missing and has no default; likewise below.
        """
        value = self.values.get(self._key(key), default)
        if type(value) is tuple and len(set(value)) == 1:
            # one for each layer, all of them the same
            (value,) = set(value)
        if type(value) is not int or not 0 < value < _MOST:
            raise self._wrong(key, "a whole number above 0", value)
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.values.get(self._key(key), default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
            raise self._wrong(key, "a number above 0", value)
        return float(value)

    def text(self, key: str, default: str) -> str:
        value = self.values.get(self._key(key), default)
        if not isinstance(value, str):
            raise self._wrong(key, "a text", value)
        return value

    def token(self, key: str) -> int | None:
        """An id of the vocabulary, or None."""
        value = self.values.get(f"tokenizer.ggml.{key}")
        return value if type(value) is int and 0 <= value < _MOST else None

    def _key(self, key: str) -> str:
        return f"{self.architecture}.{key}"

    def _wrong(self, key: str, kind: str, value: object) -> BadCheckpoint:
        return BadCheckpoint(f"{self.path}: {self._key(key)} should be {kind}, and is {str(value)[:80]}")
