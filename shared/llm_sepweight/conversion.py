"""Converts checkpoint shards to a weight directory, with at most one shard open at a time."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from llm_sepweight.dumping import Decider, SepweightWriter, common_dtype, placed
from llm_sepweight.errors import NoInputFilesError
from llm_sepweight.layout import layer_count, section_order
from llm_sepweight.tensor_file import TensorSource, file_size

# a shard's tensors by name, mapped if the format allows it
OpenShard = Callable[[Path], dict[str, torch.Tensor]]


def shards(in_path: str | os.PathLike[str], extension: str) -> list[Path]:
    """The files of a directory with this extension, sorted. Raises NoInputFilesError."""
    files = sorted(Path(in_path).glob(f"*.{extension}"))
    if not files:
        raise NoInputFilesError(Path(in_path), f"*.{extension}")
    return files


def convert_shards(
    files: Sequence[Path],
    open_shard: OpenShard,
    out_path: str | os.PathLike[str],
    decider: Decider,
    *,
    overwrite: bool = False,
) -> None:
    """Write the tensors of all `files` as one weight directory.

    Raises FileError, BadDecisionError, BadTensorError (a name in two shards), OccupiedDirectoryError.
    """
    opened = _OpenedShard(open_shard)
    sections = placed(decider, [source for file in files for source in opened.sources(file)])
    needed = sum(file_size(sources) for sources in sections.values())
    with SepweightWriter(out_path, overwrite=overwrite, source=files[0].parent, needed=needed) as writer:
        for section in sorted(sections, key=section_order):
            writer.write_section(section, sections[section])
        writer.commit(
            model_name="",
            config={},
            dtype=common_dtype(sections),
            n_layers=layer_count(sections),
            tied={},
        )


class _OpenedShard:
    """The shard that was last read. It is released before another one is opened."""

    def __init__(self, open_shard: OpenShard) -> None:
        self._open = open_shard
        self._file: Path | None = None
        self._tensors: dict[str, torch.Tensor] = {}

    def sources(self, file: Path) -> list[TensorSource]:
        return [
            TensorSource(name, tensor.dtype, tuple(tensor.shape), partial(self._read, file, name))
            for name, tensor in self._of(file).items()
        ]

    def _read(self, file: Path, name: str) -> torch.Tensor:
        return self._of(file)[name]

    def _of(self, file: Path) -> dict[str, torch.Tensor]:
        if file != self._file:
            self._file, self._tensors = None, {}
            self._tensors = self._open(file)
            self._file = file
        return self._tensors
