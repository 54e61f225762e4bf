"""Weight directories that grow: sections are written one by one, and listed as soon as they are whole.

Such a directory has an origin (see `Manifest`), and a manifest from the start. Its owner sees to it that no section is
written, and no manifest changed, by two at a time.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from llm_sepweight.errors import FileError
from llm_sepweight.layout import file_name
from llm_sepweight.manifest import FileEntry, Manifest
from llm_sepweight.mapped_file import checked_path
from llm_sepweight.publishing import publish, temporary
from llm_sepweight.tensor_file import TensorSource, write_tensor_file


def has_section(directory: Path, manifest: Manifest, section: str) -> bool:
    """Whether the section is listed, and its file there with the size that is listed."""
    entry = manifest.files.get(section)
    try:
        return entry is not None and checked_path(directory, entry).is_file()
    except FileError:
        return False


def write_section(
    directory: Path, section: str, tensors: Sequence[TensorSource], progress: Callable[[int], None] | None = None
) -> FileEntry:
    """Write the file of a section, with one tensor in memory at a time; the manifest does not list it yet.

    Raises BadSectionError, BadTensorError, CannotWriteError.
    """
    name = file_name(section)
    size, sha256 = write_tensor_file(temporary(directory / name), tensors, progress)
    publish(directory / name)
    return FileEntry(name, size, sha256)


def list_section(directory: Path, section: str, entry: FileEntry) -> Manifest:
    """List the file of a section in the manifest, and return that. Raises ManifestError."""
    manifest = Manifest.read(directory)
    grown = replace(manifest, files={**manifest.files, section: entry})
    grown.write(directory)
    return grown
