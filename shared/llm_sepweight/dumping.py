"""Writes weight directories: section by section from any source, or a whole state dict at once."""

import io
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from llm_sepweight.errors import BadDecisionError, BadSectionError, BadTensorError
from llm_sepweight.layout import (
    BEGIN,
    END,
    MANIFEST_FILE,
    file_name,
    layer_count,
    place,
    section_name,
    split_place,
)
from llm_sepweight.manifest import FORMAT_VERSION, FileEntry, Manifest
from llm_sepweight.mapped_file import checked_path, map_tensors
from llm_sepweight.publishing import claim_directory, publish, refuse_inside, stage, synced_file, temporary
from llm_sepweight.replacing import replace_directory
from llm_sepweight.tensor_file import TensorSource, write_tensor_file

__all__ = ["Decider", "SepweightWriter", "TensorSource", "common_dtype", "dump", "placed"]

# key of a state dict -> ["start" or "begin", name], ["mid", "3", name] or ["end", name]
Decider = Callable[[str], Sequence[str]]


class SepweightWriter:
    """Writes one weight directory. It owns the directory from construction to `commit`.

    The manifest comes last: until `commit`, the directory does not load, or loads the finished model that is to be
    replaced. The next run cleans up after one that was killed; as a context manager, the writer cleans up itself if the
    block fails. Files that are not of this format are never touched, except those that `write_beside` overwrites and
    those that `drop` names.
    """

    def __init__(
        self,
        out_path: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        source: str | os.PathLike[str] | None = None,
        needed: int = 0,
    ) -> None:
        """Claim `out_path`.

        Args:
            overwrite: whether a finished model may be replaced.
            source: the directory that the tensors are read from; the output must not lie in it.
            needed: bytes that will be written, as far as known.

        Raises OccupiedDirectoryError, NoSpaceError.
        """
        self._names: dict[str, frozenset[str]] = {}
        self._entries: dict[str, FileEntry] = {}
        self._brought: list[Path] = []
        self._dropped: set[str] = set()
        self._committed = False
        if source is not None:
            refuse_inside(Path(out_path), Path(source), "converted")
        self._claim = claim_directory(Path(out_path), overwrite=overwrite, needed=needed)
        self._directory = self._claim.directory

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and not self._committed:
            for path in reversed(self._brought):
                if path.is_dir():
                    path.rmdir()
                else:
                    path.unlink(missing_ok=True)
            self._claim.abandon()

    def write_beside(self, content: Path | bytes, name: str) -> None:
        """Write a file that goes with the weights, such as a tokenizer's, to `name`, which may be in a subfolder.

        Args:
            content: the file to copy, or the bytes themselves.
        """
        target = self._directory / name
        self._brought += [path for path in (target.parent, target) if not path.exists()]
        target.parent.mkdir(exist_ok=True)
        source = io.BytesIO(content) if isinstance(content, bytes) else content.open("rb")
        with source as read, synced_file(target) as written:
            shutil.copyfileobj(read, written)

    def drop(self, names: Iterable[str]) -> None:
        """Mark files that are not of this format, by their names relative to the directory, for removal at commit."""
        self._dropped.update(names)

    def write_section(
        self, section: str, tensors: Sequence[TensorSource], progress: Callable[[int], None] | None = None
    ) -> FileEntry:
        """Write the file of one section, reading one tensor at a time.

        `progress` receives the size of each piece as it is written. Raises BadSectionError, BadTensorError.
        """
        if self._committed:
            raise BadSectionError(f"section {section!r} comes after the commit: start a new writer")
        if section in self._entries:
            raise BadSectionError(f"section {section!r} was already written: pass all of its tensors in one call")
        entry = _write_beside(self._directory, section, tensors, progress)
        publish(self._directory / entry.file)
        self._entries[section] = entry
        self._names[section] = frozenset(source.name for source in tensors)
        return entry

    def commit(
        self,
        *,
        model_name: str,
        config: dict[str, Any],
        dtype: str,
        n_layers: int,
        tied: Mapping[str, str],
        dequantized: Mapping[str, int] | None = None,
    ) -> Manifest:
        """Write the manifest, which makes the directory loadable. The fields are those of `Manifest`.

        Raises BadSectionError on a second commit, BadTensorError if a tie is invalid,
        InvalidManifestError if the fields contradict what was written.
        """
        if self._committed:
            raise BadSectionError("the directory was committed before: start a new writer")
        for tied_place, home in tied.items():
            self._check_tie(tied_place, home)
        files = dict(self._entries)
        sizes = dict(dequantized or {})
        manifest = Manifest(FORMAT_VERSION, model_name, config, dtype, n_layers, files, dict(tied), dequantized=sizes)
        if not self._claim.replaces:
            for name in self._dropped:
                (self._directory / name).unlink(missing_ok=True)
        manifest.write(self._directory)
        if self._claim.replaces:
            replace_directory(self._directory, self._claim.target, drop=self._dropped)
        self._committed = True
        return manifest

    def _check_tie(self, tied_place: str, home: str) -> None:
        section, name = split_place(home)
        if name not in self._names.get(section, frozenset()):
            raise BadTensorError(f"{tied_place!r} is tied to {home!r}, which was not written")
        section, name = split_place(tied_place)
        if name in self._names.get(section, frozenset()):
            raise BadTensorError(f"{tied_place!r} is tied to {home!r}, but was also written itself")


def dump(*, decider: Decider, state_dict: Mapping[str, torch.Tensor], out_path: str | os.PathLike[str]) -> None:
    """Write a state dict as a weight directory, or add it to a finished one.

    `decider` says where the tensor of each key goes. Tensors already stored under the same name are replaced;
    all others stay. A call that fails or is killed leaves the directory as it was; see `replace_directory`.

    Raises BadDecisionError, BadTensorError.
    """
    if not state_dict:
        raise BadTensorError("the state dict is empty: there is nothing to write")
    out = Path(out_path)
    sections = placed(decider, (TensorSource.of(key, tensor) for key, tensor in state_dict.items()))
    if (out / MANIFEST_FILE).exists():
        _add(out, sections, Manifest.read(out))
        return
    writer = SepweightWriter(out)
    for section, sources in sections.items():
        writer.write_section(section, sources)
    writer.commit(model_name="", config={}, dtype=common_dtype(sections), n_layers=layer_count(sections), tied={})


def placed(decider: Decider, sources: Iterable[TensorSource]) -> dict[str, list[TensorSource]]:
    """Sort sources into sections, and give them their names in those sections.

    Raises BadDecisionError, and BadTensorError if two sources get the same place.
    """
    sections: dict[str, dict[str, TensorSource]] = {}
    for source in sources:
        section, name = _decide(decider, source.name)
        tensors = sections.setdefault(section, {})
        if name in tensors:
            raise BadTensorError(f"{source.name!r} is the second tensor for {place(section, name)!r}")
        tensors[name] = replace(source, name=name)
    return {section: list(tensors.values()) for section, tensors in sections.items()}


def common_dtype(sections: Mapping[str, Sequence[TensorSource]], *known: str) -> str:
    """Torch's name of the dtype that all sources and all `known` names share, or "mixed"."""
    dtypes = {source.dtype for sources in sections.values() for source in sources}
    names = {str(dtype).removeprefix("torch.") for dtype in dtypes} | {*known}
    return names.pop() if len(names) == 1 else "mixed"


def _decide(decider: Decider, key: str) -> tuple[str, str]:
    decision = decider(key)
    match decision:
        case ["start" | "begin", str(name)]:
            return BEGIN, name
        case ["end", str(name)]:
            return END, name
        case ["mid", str(layer), str(name)] if layer.isascii() and layer.isdecimal() and len(layer) < 10:
            return section_name(int(layer)), name
    raise BadDecisionError(key, decision)


def _write_beside(
    directory: Path,
    section: str,
    sources: Sequence[TensorSource],
    progress: Callable[[int], None] | None = None,
) -> FileEntry:
    """Write the file of a section under its temporary name."""
    name = file_name(section)
    size, sha256 = write_tensor_file(temporary(directory / name), sources, progress)
    return FileEntry(name, size, sha256)


def _add(out: Path, sections: Mapping[str, Sequence[TensorSource]], manifest: Manifest) -> None:
    """Merge sections into a finished directory: write a new directory in it, and replace the old one with that."""
    claim = stage(out)
    try:
        entries = {}
        for section, sources in sections.items():
            merged = {source.name: source for source in _stored(out, section, manifest)}
            merged |= {source.name: source for source in sources}
            entries[section] = _write_beside(claim.directory, section, list(merged.values()))
            publish(claim.directory / entries[section].file)
        untied = {place(section, source.name) for section, sources in sections.items() for source in sources}
        merged_manifest = replace(
            manifest,
            dtype=common_dtype(sections, manifest.dtype),
            n_layers=max(manifest.n_layers, layer_count(sections)),
            files={**manifest.files, **entries},
            tied={tied: home for tied, home in manifest.tied.items() if tied not in untied},
            dequantized={
                section: size + (entries[section].size - manifest.files[section].size if section in entries else 0)
                for section, size in manifest.dequantized.items()
            },
            # with tensors of another's it is no longer what it was made of
            origin=None,
        )
        merged_manifest.write(claim.directory)
        kept = {entry.file for section, entry in manifest.files.items() if section not in entries}
        replace_directory(claim.directory, out, keep=kept)
    except BaseException:
        claim.abandon()
        raise


def _stored(out: Path, section: str, manifest: Manifest) -> list[TensorSource]:
    entry = manifest.files.get(section)
    if entry is None:
        return []
    return [TensorSource.of(name, tensor) for name, tensor in map_tensors(checked_path(out, entry)).items()]
