"""Weights of a language model, one file per layer."""

from llm_sepweight.dumping import SepweightWriter, TensorSource, dump
from llm_sepweight.errors import (
    BadDecisionError,
    BadSectionError,
    BadTensorError,
    ContentError,
    CorruptFileError,
    DirectoryError,
    FileError,
    InvalidManifestError,
    LayersOutOfRangeError,
    MalformedPartSpecError,
    ManifestError,
    MissingFileError,
    MissingSectionError,
    ModuleMismatchError,
    NoInputFilesError,
    OccupiedDirectoryError,
    PartSpecError,
    SepweightError,
    StrayFileError,
    UnfinishedDirectoryError,
    UnsupportedFormatError,
    UntrustedPickle,
    WrongDigestError,
    WrongSizeError,
)
from llm_sepweight.extraction import extract
from llm_sepweight.filenames import get_filenames
from llm_sepweight.lazy_loading import lazy_load
from llm_sepweight.loading import PartStateDict, load, verify
from llm_sepweight.manifest import FileEntry, Manifest
from llm_sepweight.part_spec import PartSpec
from llm_sepweight.verification import Verification, Verified

__all__ = [
    "BadDecisionError",
    "BadSectionError",
    "BadTensorError",
    "ContentError",
    "CorruptFileError",
    "DirectoryError",
    "FileEntry",
    "FileError",
    "InvalidManifestError",
    "LayersOutOfRangeError",
    "MalformedPartSpecError",
    "Manifest",
    "ManifestError",
    "MissingFileError",
    "MissingSectionError",
    "ModuleMismatchError",
    "NoInputFilesError",
    "OccupiedDirectoryError",
    "PartSpec",
    "PartSpecError",
    "PartStateDict",
    "SepweightError",
    "SepweightWriter",
    "StrayFileError",
    "TensorSource",
    "UnfinishedDirectoryError",
    "UnsupportedFormatError",
    "UntrustedPickle",
    "Verification",
    "Verified",
    "WrongDigestError",
    "WrongSizeError",
    "dump",
    "extract",
    "get_filenames",
    "lazy_load",
    "load",
    "verify",
]
