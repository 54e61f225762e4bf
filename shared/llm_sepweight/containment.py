"""Directories may be untrusted: none of their files may lead out of them, and none is read without a size limit."""

import stat
from pathlib import Path

from llm_sepweight.errors import InvalidManifestError, StrayFileError

# A manifest has a few hundred bytes per layer, plus the model's configuration.
LONGEST_MANIFEST = 64 * 2**20


def refuse_stray(path: Path) -> None:
    """Raises StrayFileError if the file is a link that leads out of its directory."""
    if path.is_symlink():
        target = path.resolve()
        if not target.is_relative_to(path.parent.resolve()):
            raise StrayFileError(path, target)


def manifest_text(path: Path) -> str:
    """The text of a manifest.

    Raises FileNotFoundError, NotADirectoryError, StrayFileError, and InvalidManifestError if it is not a text file,
    or is longer than a manifest can be.
    """
    refuse_stray(path)
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise InvalidManifestError(f"{path} is not a regular file: convert the model again")
    if found.st_size > LONGEST_MANIFEST:
        raise InvalidManifestError(
            f"{path} has {found.st_size} bytes, more than a manifest can have ({LONGEST_MANIFEST}): "
            "choose a sepweight directory"
        )
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidManifestError(f"{path} is not JSON ({error}): convert the model again") from error
