"""Names in a weight directory: sections (`begin`, `mid.00003`, `end`), their files, and places of tensors.

A place is `section/tensor`, as in `begin/embed_tokens.weight`.
"""

import re
import reprlib
from collections.abc import Iterable

from llm_sepweight.errors import BadSectionError

BEGIN = "begin"
END = "end"
SUFFIX = ".safetensors"
LEGACY_SUFFIX = ".pth"
TEMPORARY_SUFFIX = ".tmp"
MANIFEST_FILE = "manifest.json"
# STAGING_DIRECTORY lies in a finished directory and will replace it. While the two are swapped, REPLACED, formatted
# with the directory's name, lies beside it.
STAGING_DIRECTORY = ".replacement"
REPLACED = ".{}.replaced"

_MID = re.compile(r"mid\.([0-9]{5,9})")


# No model has this many. Neither a manifest nor a part spec must make code list a billion layers.
MOST_LAYERS = 100_000


def section_name(layer: int) -> str:
    """The section of one layer: `mid.00003` for 3."""
    if not 0 <= layer < 10**9:
        raise BadSectionError(f"layer {layer} has no section: layers count from 0")
    return f"mid.{layer:05d}"


def layer_of(section: str) -> int | None:
    """The layer of a `mid` section, None for `begin` and `end`.

    Raises BadSectionError for anything else.
    """
    if section in (BEGIN, END):
        return None
    match = _MID.fullmatch(section)
    layer = int(match[1]) if match else None
    if layer is None or section_name(layer) != section:
        raise BadSectionError(f"no section is called {reprlib.repr(section)}: expected begin, mid.00000 (or on) or end")
    return layer


def layer_count(sections: Iterable[str]) -> int:
    """How many layers a model has if its last layer is the last one in `sections`."""
    layers = [layer for section in sections if (layer := layer_of(section)) is not None]
    return max(layers, default=-1) + 1


def section_order(section: str) -> int:
    """Sort key that puts `begin` first, the layers by number, and `end` last."""
    layer = layer_of(section)
    if layer is None:
        return -1 if section == BEGIN else 10**9
    return layer


def file_name(section: str, suffix: str = SUFFIX) -> str:
    """The file that stores a section."""
    layer_of(section)
    return section + suffix


def section_of_file(name: str, suffix: str = SUFFIX) -> str | None:
    """The section that a file of this name stores, or None if it is not a section file."""
    section = name.removesuffix(suffix)
    if section == name:
        return None
    try:
        layer_of(section)
    except BadSectionError:
        return None
    return section


def is_own_file(name: str) -> bool:
    """Whether a file of this name belongs to the format, including unfinished files."""
    finished = name.removesuffix(TEMPORARY_SUFFIX)
    return finished == MANIFEST_FILE or section_of_file(finished) is not None


def place(section: str, tensor: str) -> str:
    """The place of a tensor: `end/lm_head.weight`."""
    layer_of(section)
    return f"{section}/{tensor}"


def split_place(text: str) -> tuple[str, str]:
    """The section and the tensor of a place. Raises BadSectionError if `text` is not a place."""
    section, slash, tensor = text.partition("/")
    layer_of(section)
    if not slash or not tensor:
        raise BadSectionError(f"{reprlib.repr(text)} is not a place: expected section/tensor")
    return section, tensor
