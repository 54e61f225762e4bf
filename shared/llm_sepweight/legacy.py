"""Reads directories of pickles that the original library wrote, in each of its formats.

flat      begin.pth, mid.00000.pth ..., end.pth; each a state dict. Some editions repeat `h.<layer>.` before
          every name in a layer's file; it is removed.
nested    start/NAME.pth, mid/<layer>/NAME.pth, end/NAME.pth; each one tensor.
"""

import re
from pathlib import Path

import torch

from llm_sepweight.errors import MissingFileError
from llm_sepweight.layout import (
    BEGIN,
    END,
    LEGACY_SUFFIX,
    file_name,
    layer_count,
    layer_of,
    section_name,
    section_of_file,
)
from llm_sepweight.part_spec import PartSpec
from llm_sepweight.torch_file import open_pickle, open_pickled_tensor

_LAYER = re.compile(r"0|[1-9][0-9]{0,8}")
_NESTED_BEGIN = "start"


def legacy_files(directory: Path) -> dict[str, list[Path]]:
    """The pickles of each section; empty if the directory holds none in either format."""
    if not directory.is_dir():
        return {}
    flat = {section: [file] for file in directory.iterdir() if (section := section_of_file(file.name, LEGACY_SUFFIX))}
    return flat or _nested_files(directory)


def wanted_files(directory: Path, spec: PartSpec) -> dict[str, list[Path]]:
    """The pickles of a part, by section. Raises MissingFileError, LayersOutOfRangeError."""
    present = legacy_files(directory)
    sections = spec.sections(layer_count(present))
    for section in sections:
        if section not in present:
            raise MissingFileError(directory / file_name(section, LEGACY_SUFFIX), None)
    return {section: present[section] for section in sections}


def load_legacy(directory: Path, spec: PartSpec) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors of a part, by section. Raises MissingFileError, UntrustedPickle, CorruptFileError."""
    return {section: _tensors(section, files) for section, files in wanted_files(directory, spec).items()}


def _nested_files(directory: Path) -> dict[str, list[Path]]:
    # other spellings of a number, such as 007, are no layers: two folders would be one
    layers = [folder for folder in (directory / "mid").glob("*") if _LAYER.fullmatch(folder.name)]
    folders = {section_name(int(folder.name)): folder for folder in layers}
    folders |= {BEGIN: directory / _NESTED_BEGIN, END: directory / END}
    files = {section: sorted(folder.glob(f"*{LEGACY_SUFFIX}")) for section, folder in folders.items()}
    return {section: found for section, found in files.items() if found}


def _tensors(section: str, files: list[Path]) -> dict[str, torch.Tensor]:
    if file_name(section, LEGACY_SUFFIX) != files[0].name:
        return {file.name.removesuffix(LEGACY_SUFFIX): open_pickled_tensor(file) for file in files}
    tensors = open_pickle(files[0])
    layer = layer_of(section)
    prefix = f"h.{layer}."
    if layer is None or not all(name.startswith(prefix) for name in tensors):
        return tensors
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
