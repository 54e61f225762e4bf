"""Converts a directory of torch pickles, read weights-only."""

import os

from llm_sepweight.conversion import convert_shards, shards
from llm_sepweight.dumping import Decider
from llm_sepweight.torch_file import open_pickle


def convert_pth_files(
    in_path: str | os.PathLike[str],
    out_path: str | os.PathLike[str],
    decider: Decider,
    extension: str = "pth",
    *,
    overwrite: bool = False,
) -> None:
    """Write all `*.pth` (or `*.bin`, by `extension`) files of `in_path` as one weight directory.

    Raises NoInputFilesError, UntrustedPickle, and what `convert_shards` raises.
    """
    convert_shards(shards(in_path, extension), open_pickle, out_path, decider, overwrite=overwrite)
