"""The section of a config that says how weights are quantised, with its fields' types checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from splitlearn.checkpoints.quantized import unsupported
from splitlearn.errors import BadCheckpoint, UnsupportedModel


@dataclass(frozen=True)
class Declaration:
    """A section, or one in it.

    Attributes:
        source: what the checkpoint is called in errors.
        method: the format's name.
        values: the fields.
    """

    source: str
    method: str
    values: Mapping[str, Any]

    def refuse(self, option: str) -> UnsupportedModel:
        """The error of an option that is not covered."""
        return unsupported(self.source, f"{self.method} with {option}, says config.json")

    def whole(self, field: str, default: int | None = None) -> int:
        """A whole number.

        Raises:
            BadCheckpoint: it is none; likewise below. A field that is missing or null has the default, if there is one.
        """
        value = self.values.get(field)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._wrong(field, "a whole number")
        return value

    def flag(self, field: str, default: bool) -> bool:
        value = self.values.get(field)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise self._wrong(field, "true or false")
        return value

    def text(self, field: str, default: str) -> str:
        value = self.values.get(field)
        value = default if value is None else value
        if not isinstance(value, str):
            raise self._wrong(field, "a text")
        return value.lower()

    def texts(self, field: str) -> tuple[str, ...]:
        value = self.values.get(field) or []
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise self._wrong(field, "a list of texts")
        return tuple(value)

    def block(self, field: str) -> tuple[int, int] | None:
        """Rows and columns of a block, or None."""
        value = self.values.get(field)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != 2 or not all(type(each) is int and each > 0 for each in value):
            raise self._wrong(field, "two whole numbers above 0")
        return value[0], value[1]

    def section(self, field: str) -> "Declaration | None":
        """A section in this one; None if it is not there or is empty."""
        value = self.values.get(field)
        if not value:
            return None
        if not isinstance(value, Mapping):
            raise self._wrong(field, "an object")
        return Declaration(self.source, self.method, value)

    def _wrong(self, field: str, kind: str) -> BadCheckpoint:
        shown = repr(self.values.get(field))[:80]
        return BadCheckpoint(f"{self.source}: {field} of {self.method} in config.json should be {kind}, and is {shown}")
