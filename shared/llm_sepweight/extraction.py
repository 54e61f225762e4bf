"""Copies only the files of a part to another directory, for a machine that holds nothing else."""

import os
from collections.abc import Callable
from pathlib import Path

from llm_sepweight.manifest import FileEntry, Manifest
from llm_sepweight.mapped_file import checked_chunks, checked_path
from llm_sepweight.part_spec import PartSpec
from llm_sepweight.publishing import claim_directory, publish, refuse_inside, synced_file, temporary
from llm_sepweight.replacing import replace_directory


def extract(
    path: str | os.PathLike[str],
    out_path: str | os.PathLike[str],
    part_spec: str | PartSpec,
    *,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Copy the files of a part, and of the tensors tied into it, with the whole model's manifest.

    The size and digest of each file are checked during the copy. The manifest comes last and is unchanged, so the copy
    has the digest of the original. On failure, the new files are removed, and a finished directory that was to be
    overwritten stays as it was. `progress` receives the size of each chunk.

    Raises PartSpecError, DirectoryError, ManifestError, FileError.
    """
    source, out = Path(path), Path(out_path)
    manifest = Manifest.read(source)
    entries = manifest.entries(PartSpec.of(part_spec))
    refuse_inside(out, source, "copied")
    for entry in entries.values():
        checked_path(source, entry)
    claim = claim_directory(out, overwrite=overwrite, needed=sum(entry.size for entry in entries.values()))
    try:
        for entry in entries.values():
            _copy(source, claim.directory, entry, progress)
        manifest.write(claim.directory)
        if claim.replaces:
            replace_directory(claim.directory, out)
    except BaseException:
        claim.abandon()
        raise


def _copy(source: Path, out: Path, entry: FileEntry, progress: Callable[[int], None] | None) -> None:
    target = out / entry.file
    with synced_file(temporary(target)) as file:
        for chunk in checked_chunks(source, entry, progress):
            file.write(chunk)
    publish(target)
