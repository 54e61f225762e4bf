"""Converts a directory of safetensors shards."""

import os

from llm_sepweight.conversion import convert_shards, shards
from llm_sepweight.dumping import Decider
from llm_sepweight.mapped_file import map_tensors


def convert_safetensors_files(
    in_path: str | os.PathLike[str],
    out_path: str | os.PathLike[str],
    decider: Decider,
    *,
    overwrite: bool = False,
) -> None:
    """Write all `*.safetensors` files of `in_path` as one weight directory, tensor by tensor.

    Raises NoInputFilesError, and what `convert_shards` raises.
    """
    convert_shards(shards(in_path, "safetensors"), map_tensors, out_path, decider, overwrite=overwrite)
