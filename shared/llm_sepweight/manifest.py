"""The manifest lists what a weight directory holds. It is written last, so that its presence means "finished".

Of a directory with an origin it is written first, and again with each section: its presence means that whatever it
lists is finished.
"""

import hashlib
import json
import os
import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llm_sepweight.containment import manifest_text
from llm_sepweight.errors import (
    BadSectionError,
    InvalidManifestError,
    MissingSectionError,
    UnfinishedDirectoryError,
    UnsupportedFormatError,
)
from llm_sepweight.layout import MANIFEST_FILE, MOST_LAYERS, file_name, layer_of, section_order, split_place
from llm_sepweight.part_spec import PartSpec
from llm_sepweight.publishing import publish, synced_file, temporary

FORMAT_VERSION = 1
# The field with the manifest's own digest, over all its other fields.
_OWN_DIGEST = "sha256"
_ORIGIN = "origin"
_DEQUANTIZED = "dequantized"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FIELDS: dict[str, type] = {
    "model_name": str,
    "config": dict,
    "dtype": str,
    "n_layers": int,
    "files": dict,
    "tied": dict,
}


@dataclass(frozen=True)
class FileEntry:
    """One section's file: its name, its size in bytes and the sha256 of its bytes in hex."""

    file: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        if not _is_count(self.size) or not isinstance(self.sha256, str) or not _SHA256.fullmatch(self.sha256):
            raise InvalidManifestError(
                f"file {_shown(self.file)}: invalid size {_shown(self.size)} or sha256 {_shown(self.sha256)}"
            )


@dataclass(frozen=True)
class Manifest:
    """What a directory holds. It lists all sections of the model, even if only some files were copied.

    `dtype` is torch's name ("bfloat16") or "mixed". `config` is the model's own configuration, unchanged.
    `tied` maps a place to the place that stores its tensor:
    `{"end/lm_head.weight": "begin/embed_tokens.weight"}`.
    `origin` names what the model was made of, field by field, if its sections are made one by one and nobody need have
    seen all of them: it then stands for the model in `digest`, and `files` lists the sections that were made.
    `dequantized` has the sections that hold weights of 4 bits, and the bytes of each with numbers in their place; or
    without them, where the weight is tied and they are a copy.

    Raises InvalidManifestError if the fields contradict each other.
    """

    format_version: int
    model_name: str
    config: dict[str, Any]
    dtype: str
    n_layers: int
    files: dict[str, FileEntry]
    tied: dict[str, str] = field(default_factory=dict)
    origin: dict[str, str] | None = None
    dequantized: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _is_count(self.n_layers) or self.n_layers > MOST_LAYERS:
            raise InvalidManifestError(f"n_layers is {_shown(self.n_layers)}, expected a number of layers")
        if not (self.model_name.isprintable() and self.dtype.isprintable()):
            raise InvalidManifestError(
                f"model_name is {_shown(self.model_name)} and dtype {_shown(self.dtype)}, expected one line each"
            )
        for each in (text for pair in (self.origin or {}).items() for text in pair):
            if not isinstance(each, str) or not each.isprintable():
                raise InvalidManifestError(f"{_ORIGIN} has {_shown(each)}, expected text in one line")
        for section, size in self.dequantized.items():
            if section not in self.files or not _is_count(size):
                raise InvalidManifestError(
                    f"{_DEQUANTIZED} has {_shown(section)} with {_shown(size)}, expected a section and its bytes"
                )
        try:
            for section, entry in self.files.items():
                self._check_file(section, entry)
            for tied, home in self.tied.items():
                self._check_tie(tied, home)
        except BadSectionError as error:
            raise InvalidManifestError(str(error)) from error

    def _check_file(self, section: str, entry: FileEntry) -> None:
        # an untrusted manifest must not point to files elsewhere
        if entry.file != file_name(section):
            raise InvalidManifestError(
                f"section {section!r} is in {_shown(entry.file)}, expected {file_name(section)!r}"
            )
        layer = layer_of(section)
        if layer is not None and layer >= self.n_layers:
            raise InvalidManifestError(f"section {section!r} is past the last of {self.n_layers} layers")

    def _check_tie(self, tied: str, home: str) -> None:
        split_place(tied)
        section, _ = split_place(home)
        if self.origin is None and section not in self.files:
            raise InvalidManifestError(f"{_shown(tied)} is tied to {_shown(home)}, but there is no section {section!r}")
        if home in self.tied:
            raise InvalidManifestError(f"{_shown(tied)} is tied to {_shown(home)}, which is itself tied")

    @property
    def digest(self) -> str:
        """One sha256 in hex for all weights: that of the files table as canonical JSON, or of the origin.

        It needs no weight file, so a machine that has only its own files computes the same digest. No files table is
        the JSON of an origin, so the two kinds never have one digest.
        """
        return self._digest_of(self.files)

    def digest_of(self, spec: PartSpec) -> str:
        """`digest` for the weights of a part, or that of the origin if there is one.

        Raises LayersOutOfRangeError, MissingSectionError.
        """
        return self._digest_of(self.entries(spec) if self.origin is None else {})

    def _digest_of(self, files: Mapping[str, FileEntry]) -> str:
        if self.origin is not None:
            return _canonical_digest({_ORIGIN: self.origin})
        return _canonical_digest({section: _entry_json(entry) for section, entry in files.items()})

    def entries(self, spec: PartSpec) -> dict[str, FileEntry]:
        """The files that a part needs, by section, including those that store its tied tensors.

        Raises LayersOutOfRangeError, MissingSectionError.
        """
        wanted = set(spec.sections(self.n_layers))
        homes = {split_place(home)[0] for tied, home in self.tied.items() if split_place(tied)[0] in wanted}
        needed = sorted(wanted | homes, key=section_order)
        for section in needed:
            if section not in self.files:
                raise MissingSectionError(section, sorted(self.files, key=section_order))
        return {section: self.files[section] for section in needed}

    @classmethod
    def read(cls, directory: str | os.PathLike[str]) -> "Manifest":
        """Read the manifest of a directory.

        Raises UnfinishedDirectoryError, UnsupportedFormatError, InvalidManifestError, StrayFileError.
        """
        path = Path(directory) / MANIFEST_FILE
        try:
            content = json.loads(manifest_text(path))
            # half a surrogate pair is valid JSON, but not text that can be logged or sent
            json.dumps(content, ensure_ascii=False).encode()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UnfinishedDirectoryError(Path(directory)) from error
        except (ValueError, RecursionError) as error:
            raise InvalidManifestError(f"{path} is not JSON ({error}): convert the model again") from error
        if not isinstance(content, dict) or "format_version" not in content:
            raise InvalidManifestError(f"{path} was not made by this package: choose a sepweight directory")
        # there is no digest to compare if the manifest predates the field or was edited by hand
        digest = content.pop(_OWN_DIGEST, None)
        if digest is not None and digest != _canonical_digest(content):
            raise InvalidManifestError(
                f"{path}: its {_OWN_DIGEST} does not match its content: copy it again or convert the model again; "
                f"if you edited it, remove the field {_OWN_DIGEST!r}"
            )
        version = content["format_version"]
        if version != FORMAT_VERSION or isinstance(version, bool):
            raise UnsupportedFormatError(path, version, FORMAT_VERSION)
        try:
            return cls(format_version=version, **_checked_fields(content))
        except InvalidManifestError as error:
            raise InvalidManifestError(f"{path}: {error}: convert the model again") from error

    def write(self, directory: str | os.PathLike[str]) -> None:
        """Write the manifest in one step: readers see the old one, none, or all of this one."""
        path = Path(directory) / MANIFEST_FILE
        content = {
            "format_version": self.format_version,
            "model_name": self.model_name,
            "dtype": self.dtype,
            "n_layers": self.n_layers,
            "tied": dict(sorted(self.tied.items())),
            "files": {name: _entry_json(self.files[name]) for name in sorted(self.files, key=section_order)},
            "config": self.config,
            **({} if self.origin is None else {_ORIGIN: self.origin}),
            **({_DEQUANTIZED: self.dequantized} if self.dequantized else {}),
        }
        # keys and numbers as a reader will see them
        content = json.loads(json.dumps(content))
        content[_OWN_DIGEST] = _canonical_digest(content)
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        with synced_file(temporary(path)) as file:
            file.write(text.encode())
        publish(path)


def _entry_json(entry: FileEntry) -> dict[str, str | int]:
    return {"file": entry.file, "size": entry.size, "sha256": entry.sha256}


def _canonical_digest(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _shown(value: object) -> str:
    """A value of any length, shortened to fit in one line."""
    return reprlib.repr(value)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _checked_fields(content: dict[str, Any]) -> dict[str, Any]:
    """The fields of `Manifest` from parsed JSON, each checked for its type."""
    for name, kind in _FIELDS.items():
        if not isinstance(content.get(name), kind):
            raise InvalidManifestError(f"{name!r} is {_shown(content.get(name))}, expected {kind.__name__}")
    if not all(isinstance(home, str) for home in content["tied"].values()):
        raise InvalidManifestError("'tied' must map places to places")
    files = {section: _entry(section, entry) for section, entry in content["files"].items()}
    origin = content.get(_ORIGIN)
    if not isinstance(origin, dict | None):
        raise InvalidManifestError(f"{_ORIGIN!r} is {_shown(origin)}, expected dict")
    dequantized = content.get(_DEQUANTIZED, {})
    if not isinstance(dequantized, dict):
        raise InvalidManifestError(f"{_DEQUANTIZED!r} is {_shown(dequantized)}, expected dict")
    return {name: content[name] for name in _FIELDS} | {"files": files, _ORIGIN: origin, _DEQUANTIZED: dequantized}


def _entry(section: str, entry: object) -> FileEntry:
    if not isinstance(entry, dict) or entry.keys() != {"file", "size", "sha256"}:
        raise InvalidManifestError(f"section {_shown(section)} is {_shown(entry)}, expected file, size and sha256")
    return FileEntry(**entry)
