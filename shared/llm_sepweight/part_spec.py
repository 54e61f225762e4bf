"""The mini-language that selects sections of a model: `b 0-5`, `7-12`, `75-80 e`, `f`."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from llm_sepweight.errors import LayersOutOfRangeError, MalformedPartSpecError
from llm_sepweight.layout import BEGIN, END, layer_of, section_name

_RANGE = re.compile(r"([0-9]{1,9})-([0-9]{1,9})")


@dataclass(frozen=True)
class PartSpec:
    """The sections of a part, for a model of any depth.

    `layers` are half-open ranges of step 1, ascending and disjoint. `full` stands for the whole model,
    however many layers it has; it implies `begin` and `end` and leaves `layers` empty.

    Raises MalformedPartSpecError if the fields contradict each other or select nothing.
    """

    begin: bool
    layers: tuple[range, ...]
    end: bool
    full: bool = False

    def __post_init__(self) -> None:
        reason = self._contradiction()
        if reason:
            raise MalformedPartSpecError(str(self), reason)

    def _contradiction(self) -> str | None:
        if self.full:
            whole = self.begin and self.end and not self.layers
            return None if whole else "the full model is begin, end and no explicit ranges"
        if not (self.begin or self.layers or self.end):
            return "it names nothing"
        for layers in self.layers:
            if layers.step != 1 or layers.start < 0:
                return f"{layers} is not a range of layers"
            if not layers:
                return f"{layers.start}-{layers.stop} is empty, because ranges are half-open"
        if any(after.start < before.stop for before, after in pairwise(self.layers)):
            return "ranges must ascend and not overlap"
        return None

    @classmethod
    def parse(cls, text: str) -> "PartSpec":
        """Read a part spec. Raises MalformedPartSpecError."""
        words = text.split()
        if words == ["f"]:
            return cls(begin=True, layers=(), end=True, full=True)
        begin = words[:1] == ["b"]
        words = words[1:] if begin else words
        end = words[-1:] == ["e"]
        words = words[:-1] if end else words
        layers = tuple(_parse_range(text, word) for word in words)
        return cls(begin=begin, layers=layers, end=end)

    @classmethod
    def of(cls, spec: "str | PartSpec") -> "PartSpec":
        """The spec itself, or the one parsed from its text. Raises MalformedPartSpecError."""
        return spec if isinstance(spec, PartSpec) else cls.parse(spec)

    @classmethod
    def of_sections(cls, sections: Iterable[str]) -> "PartSpec":
        """The part with exactly these sections. Raises MalformedPartSpecError if there is none, BadSectionError."""
        names = set(sections)
        ranges: list[range] = []
        for layer in sorted(layer for name in names if (layer := layer_of(name)) is not None):
            if ranges and ranges[-1].stop == layer:
                ranges[-1] = range(ranges[-1].start, layer + 1)
            else:
                ranges.append(range(layer, layer + 1))
        return cls(begin=BEGIN in names, layers=tuple(ranges), end=END in names)

    def __str__(self) -> str:
        if self.full:
            return "f"
        ranges = [f"{layers.start}-{layers.stop}" for layers in self.layers]
        return " ".join([*(["b"] if self.begin else []), *ranges, *(["e"] if self.end else [])])

    def layer_indices(self, n_layers: int) -> tuple[int, ...]:
        """The layers of this part in a model of `n_layers`. Raises LayersOutOfRangeError."""
        if self.full:
            return tuple(range(n_layers))
        if any(layers.stop > n_layers for layers in self.layers):
            raise LayersOutOfRangeError(str(self), n_layers)
        return tuple(layer for layers in self.layers for layer in layers)

    def sections(self, n_layers: int) -> tuple[str, ...]:
        """The sections of this part in the order begin, layers, end. Raises LayersOutOfRangeError."""
        layers = [section_name(layer) for layer in self.layer_indices(n_layers)]
        return (*([BEGIN] if self.begin else []), *layers, *([END] if self.end else []))


def _parse_range(text: str, word: str) -> range:
    match = _RANGE.fullmatch(word)
    if not match:
        raise MalformedPartSpecError(text, f"{word!r} does not belong here")
    return range(int(match[1]), int(match[2]))
