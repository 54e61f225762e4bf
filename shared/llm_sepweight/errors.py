"""Everything that can go wrong with a weight directory, and whose fault it is.

SepweightError
├── PartSpecError                  the caller: the requested part
│   ├── MalformedPartSpecError         the text or the ranges make no sense
│   └── LayersOutOfRangeError          the model has fewer layers
├── ContentError                   the caller: the data to be written, or the module to be filled
│   ├── BadSectionError                no such section, or written twice
│   ├── BadDecisionError               the decider's answer cannot be used
│   ├── BadTensorError                 name, dtype or shape does not fit
│   └── ModuleMismatchError            the module to be filled has other names or shapes
├── DirectoryError                 the caller or the disk: the directory as a whole
│   ├── UnfinishedDirectoryError       no manifest: a conversion was killed, or this is something else
│   ├── OccupiedDirectoryError         the output directory holds something that would be lost
│   ├── NoSpaceError                   the output directory's disk has too little free space
│   ├── MissingSectionError            the directory never had the section
│   └── NoInputFilesError              nothing to convert
├── ManifestError                  the manifest
│   ├── InvalidManifestError           damaged, or made by something else
│   └── UnsupportedFormatError         made by another version of this package
└── FileError                      the disk or the transfer: one file, named by `file`
    ├── MissingFileError
    ├── WrongSizeError
    ├── WrongDigestError
    ├── StrayFileError                 a link that leads out of the directory
    ├── CorruptFileError               the right size, but not readable as tensors
    ├── CannotWriteError               the disk is full, or does not allow files of this size
    └── UntrustedPickle                holds more than tensors, so it was not read
"""

import reprlib
from collections.abc import Sequence
from pathlib import Path

_MOST_NAMES = 8
_GGUF = ".gguf"


class SepweightError(Exception):
    """Root of all errors that this package raises on purpose."""


class PartSpecError(SepweightError, ValueError):
    """The requested part is not available."""


class MalformedPartSpecError(PartSpecError):
    """The part spec is invalid."""

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(
            f"part spec {text!r}: {reason}; write 'f' for all, or any of 'b', half-open layer ranges and 'e' "
            "in this order, as in 'b 0-5', '7-12' or '75-80 e'"
        )
        self.text = text


class LayersOutOfRangeError(PartSpecError):
    """The part spec names layers that the model does not have."""

    def __init__(self, text: str, n_layers: int) -> None:
        has = f"{n_layers} layers (0-{n_layers})" if n_layers else "no layers"
        super().__init__(f"part spec {text!r} asks for layers past the end: the model has {has}")
        self.text = text
        self.n_layers = n_layers


class ContentError(SepweightError, ValueError):
    """The data or module passed in does not fit the format or the files."""


class BadSectionError(ContentError):
    """A section that does not exist, is written twice, or comes after the commit."""


class BadDecisionError(ContentError):
    """The decider returned something that is not a place."""

    def __init__(self, key: str, decision: object) -> None:
        super().__init__(
            f"the decider returned {decision!r} for {key!r}; expected ['start', name], ['mid', '3', name] "
            "or ['end', name]"
        )
        self.key = key
        self.decision = decision


class BadTensorError(ContentError):
    """A tensor whose name, dtype, layout or shape cannot be written."""


class ModuleMismatchError(ContentError):
    """The names or shapes of a module differ from those of the part that should fill it."""

    def __init__(self, module: str, part_spec: str, details: str) -> None:
        super().__init__(
            f"{module} does not fit the part {part_spec!r}: {details}; give a module with these names, "
            "or `rename` the part's keys"
        )


class DirectoryError(SepweightError):
    """The directory as a whole cannot be used."""


class UnfinishedDirectoryError(DirectoryError):
    """There is no manifest, so nothing in the directory can be trusted to be complete; or there is no directory."""

    def __init__(self, directory: Path) -> None:
        super().__init__(_without_manifest(directory))
        self.directory = directory


def _without_manifest(path: Path) -> str:
    if path.is_dir():
        return f"{path} is not a finished sepweight directory (it has no manifest.json): run `splitlearn convert` again"
    if not path.exists():
        return f"there is no file or directory {path}: check the path, or make the directory with `splitlearn convert`"
    if path.suffix.lower() == _GGUF:
        return f"{path} is a GGUF file, which has to be converted first: run `splitlearn convert {path} -o DIR`"
    return f"{path} is a file, and not a sepweight directory: give the directory that `splitlearn convert` made"


class OccupiedDirectoryError(DirectoryError):
    """Writing to the output directory would destroy a finished model or another program's file."""


class NoSpaceError(DirectoryError):
    """The disk has too little free space for the output. Sizes are in bytes."""

    def __init__(self, directory: Path, needed: int, free: int) -> None:
        super().__init__(
            f"{directory} needs {needed / 1e6:.1f} MB, and its disk has {free / 1e6:.1f} MB free: "
            "make room, or choose another directory"
        )
        self.needed = needed
        self.free = free


class MissingSectionError(DirectoryError):
    """The part needs a section that was never written."""

    def __init__(self, section: str, known: Sequence[str]) -> None:
        has = ", ".join(known) or "none"
        super().__init__(f"section {section!r} is required, but only these exist: {has}; add it, or ask for less")
        self.section = section


class NoInputFilesError(DirectoryError):
    """The directory to convert has no files with the expected extension."""

    def __init__(self, directory: Path, pattern: str) -> None:
        super().__init__(f"{directory} has no {pattern} files to convert: check the path and the extension")
        self.directory = directory


class ManifestError(SepweightError):
    """The manifest cannot be used."""


class InvalidManifestError(ManifestError):
    """The manifest is damaged, contradicts itself, or was not made by this package."""


class UnsupportedFormatError(ManifestError):
    """The manifest has a format version that this package does not know."""

    def __init__(self, manifest: Path, found: object, known: int) -> None:
        super().__init__(
            f"{manifest}: format version {reprlib.repr(found)}, but this version of splitlearn reads {known}: "
            "upgrade splitlearn, or convert the model again"
        )
        self.found = found
        self.known = known


class FileError(SepweightError):
    """One file is not what it should be; `file` names it."""

    def __init__(self, file: Path, message: str) -> None:
        super().__init__(f"{file}: {message}")
        self.file = file


class MissingFileError(FileError):
    """The file does not exist. `expected` is its size in bytes, or None if no manifest gives it."""

    def __init__(self, file: Path, expected: int | None) -> None:
        size = "the file" if expected is None else f"{expected} bytes"
        super().__init__(file, f"expected {size}, found no file: copy it again or convert the model again")
        self.expected = expected


class WrongSizeError(FileError):
    """The file is shorter or longer than the manifest says. Sizes are in bytes."""

    def __init__(self, file: Path, expected: int, found: int) -> None:
        super().__init__(
            file,
            f"expected {expected} bytes, found {found} bytes: copy it again or convert the model again",
        )
        self.expected = expected
        self.found = found


class WrongDigestError(FileError):
    """The file's bytes are not those that were written. Digests are sha256 in hex."""

    def __init__(self, file: Path, expected: str, found: str) -> None:
        super().__init__(
            file,
            f"expected sha256 {expected}, found {found}: copy it again or convert the model again",
        )
        self.expected = expected
        self.found = found


class StrayFileError(FileError):
    """The file is a link that leads out of its directory. It was not read."""

    def __init__(self, file: Path, target: Path) -> None:
        super().__init__(file, f"is a link that leaves the directory, to {target}: copy the file itself in its place")
        self.target = target


class CorruptFileError(FileError):
    """The file cannot be read as a set of tensors."""


class CannotWriteError(FileError):
    """The file does not fit on the disk, or exceeds the system's limit on file size. Nothing of it remains."""

    def __init__(self, file: Path, reason: str) -> None:
        super().__init__(file, f"cannot be written: {reason}: make room, or choose another directory")


class UntrustedPickle(FileError):
    """The pickle refers to something other than tensors. It was not read, because reading could run its code.

    `unsafe` lists what it refers to. It is empty if that is unknown; then the file may be damaged instead.
    """

    def __init__(self, file: Path, unsafe: Sequence[str]) -> None:
        names = ", ".join(unsafe[:_MOST_NAMES])
        holds = f"holds more than tensors ({names})" if unsafe else "holds more than tensors, or is damaged"
        super().__init__(
            file,
            f"{holds}, and was not read, because unpickling it could run code. "
            "Safe ways out: download it again; use the safetensors edition of the model; or open the file in a sandbox "
            "that you can throw away, and save only its tensors there with safetensors.torch.save_file",
        )
        self.unsafe = tuple(unsafe)
