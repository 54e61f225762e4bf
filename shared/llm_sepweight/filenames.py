"""Lists the files that a machine needs for a part, to copy them by other means than `extract`."""

import os
from pathlib import Path

from llm_sepweight.errors import MalformedPartSpecError
from llm_sepweight.layout import MANIFEST_FILE, MOST_LAYERS, file_name
from llm_sepweight.legacy import legacy_files, wanted_files
from llm_sepweight.manifest import Manifest
from llm_sepweight.part_spec import PartSpec


def get_filenames(part_spec: str | PartSpec, path: str | os.PathLike[str] | None = None) -> list[str]:
    """Names of a part's files, relative to their directory, in the order begin, layers, end, manifest.

    With `path`, the directory that holds the model, the list includes the files of tied tensors, and pickles of the
    original library have their actual names. Without it, the names follow from the part spec alone: for a model with
    tied weights, the file that stores them may be missing, and `f` is refused.

    Raises PartSpecError, and with `path` DirectoryError, ManifestError or FileError.
    """
    spec = PartSpec.of(part_spec)
    if path is None:
        if spec.full:
            raise MalformedPartSpecError(str(spec), "which files that are depends on the model: give its directory too")
        deepest = max((layers.stop for layers in spec.layers), default=0)
        if deepest > MOST_LAYERS:
            raise MalformedPartSpecError(str(spec), f"no model has more than {MOST_LAYERS} layers")
        return [*(file_name(section) for section in spec.sections(deepest)), MANIFEST_FILE]
    directory = Path(path)
    if not (directory / MANIFEST_FILE).exists() and legacy_files(directory):
        files = [file for section in wanted_files(directory, spec).values() for file in section]
        return [file.relative_to(directory).as_posix() for file in files]
    return [*(entry.file for entry in Manifest.read(directory).entries(spec).values()), MANIFEST_FILE]
