"""Loads a part of a model by mapping its files, and checks them against the manifest."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from llm_sepweight.errors import CorruptFileError
from llm_sepweight.layout import BEGIN, END, MANIFEST_FILE, layer_of, section_name, split_place
from llm_sepweight.legacy import legacy_files, load_legacy
from llm_sepweight.manifest import Manifest
from llm_sepweight.mapped_file import checked_chunks, checked_path, map_tensors
from llm_sepweight.part_spec import PartSpec


@dataclass(frozen=True)
class PartStateDict:
    """The tensors of a part. If the part lacks them, `begin` and `end` are None, and layers are absent.

    `tied` has the keys in `to_dict` of those that another place stores.
    """

    begin: dict[str, torch.Tensor] | None
    mid: dict[int, dict[str, torch.Tensor]]
    end: dict[str, torch.Tensor] | None
    tied: frozenset[str] = frozenset()

    def to_dict(self) -> dict[str, torch.Tensor]:
        """All tensors under flat keys: `begin.x`, `mid.3.x`, `end.x`."""
        mid = {section_name(layer): tensors for layer, tensors in self.mid.items()}
        sections = {BEGIN: self.begin or {}, **mid, END: self.end or {}}
        return {_key(section, name): tensor for section, group in sections.items() for name, tensor in group.items()}


def load(path: str | os.PathLike[str], part_spec: str | PartSpec) -> PartStateDict:
    """Load a part of the model in the directory `path`.

    The files are mapped, not copied: memory is used when a tensor is first touched, and is shared between
    processes. A tied tensor is the same object in all its places. Directories of the original library
    (pickles, no manifest; see `legacy`) load too; their pickles are read weights-only.

    Raises PartSpecError, UnfinishedDirectoryError, MissingSectionError, ManifestError, FileError.
    """
    directory = Path(path)
    spec = PartSpec.of(part_spec)
    if not (directory / MANIFEST_FILE).exists() and legacy_files(directory):
        return _by_kind(load_legacy(directory, spec))
    manifest = Manifest.read(directory)
    # check all sizes first, so that nothing is mapped if the part cannot be loaded completely
    paths = {section: checked_path(directory, entry) for section, entry in manifest.entries(spec).items()}
    stored = {section: map_tensors(file) for section, file in paths.items()}
    wanted = {section: stored[section] for section in spec.sections(manifest.n_layers)}
    keys = set()
    for tied, home in manifest.tied.items():
        section, name = split_place(tied)
        if section in wanted:
            home_section, home_name = split_place(home)
            if home_name not in stored[home_section]:
                raise CorruptFileError(paths[home_section], f"lacks {home_name!r}, which {tied!r} is tied to")
            wanted[section][name] = stored[home_section][home_name]
            keys.add(_key(section, name))
    return _by_kind(wanted, frozenset(keys))


def verify(
    path: str | os.PathLike[str],
    part_spec: str | PartSpec = "f",
    progress: Callable[[int], None] | None = None,
) -> None:
    """Read every byte of a part's files and compare sizes and digests with the manifest.

    `progress` receives the size of each chunk. Raises what `load` raises, and WrongDigestError.
    """
    directory = Path(path)
    entries = Manifest.read(directory).entries(PartSpec.of(part_spec)).values()
    for entry in entries:
        checked_path(directory, entry)
    for entry in entries:
        for _ in checked_chunks(directory, entry, progress):
            pass


def _by_kind(sections: Mapping[str, dict[str, torch.Tensor]], tied: frozenset[str] = frozenset()) -> PartStateDict:
    mid = {layer: tensors for section, tensors in sections.items() if (layer := layer_of(section)) is not None}
    return PartStateDict(begin=sections.get(BEGIN), mid=mid, end=sections.get(END), tied=tied)


def _key(section: str, name: str) -> str:
    layer = layer_of(section)
    return f"{section if layer is None else f'mid.{layer}'}.{name}"
