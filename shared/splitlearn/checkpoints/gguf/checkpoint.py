"""A GGUF file as a checkpoint: config, tensors by transformers' names, tokenizer."""

from pathlib import Path
from typing import Any

import torch

from splitlearn.checkpoints.gguf.header import GgufHeader, read_header
from splitlearn.checkpoints.gguf.llama_family import LlamaFamily
from splitlearn.checkpoints.gguf.metadata import Metadata
from splitlearn.checkpoints.gguf.rope import rope_parameters
from splitlearn.checkpoints.gguf.tensors import numbers, stored
from splitlearn.checkpoints.gguf.tokenizer import tokenizer_files
from splitlearn.checkpoints.weight_files import StoredTensor
from splitlearn.errors import BadCheckpoint

_EMBEDDINGS, _ROPE = "token_embd.weight", "rope_freqs.weight"
_SHARDS = "split.count"
_VOCABULARY = "tokenizer.ggml.tokens"
_DTYPE = torch.bfloat16
"""What codes become where no dtype is asked for: half of float32, and of its range."""


class GgufCheckpoint:
    """One file; reads its header, and later what it is asked for."""

    def __init__(self, path: Path) -> None:
        """Raises UnsupportedModel, BadCheckpoint."""
        self._header: GgufHeader = read_header(path)
        metadata = Metadata.of(path, self._header.metadata)
        if self._header.metadata.get(_SHARDS, 1) not in (0, 1):
            raise metadata.refuse(f"{_SHARDS} {self._header.metadata[_SHARDS]}: one of several files")
        self._family = LlamaFamily.read(metadata)

    def config(self) -> dict[str, Any]:
        """The values of a config.json. Raises UnsupportedModel, BadCheckpoint."""
        tensors, metadata = self._header.tensors, self._family.metadata
        if _EMBEDDINGS not in tensors:
            raise BadCheckpoint(f"{self._header.path} lacks {_EMBEDDINGS}; download it again")
        factors = tensors.get(_ROPE)
        if factors is not None and factors.kind.dtype != torch.float32:
            raise metadata.refuse(f"{_ROPE} of the type {factors.kind.name}")
        given = None if factors is None else numbers(self._header, factors)
        rope = rope_parameters(metadata, self._family.head, given)
        return self._family.config(tensors, tensors[_EMBEDDINGS].shape[0], rope)

    def tensors(self, dtype: torch.dtype | None) -> dict[str, StoredTensor]:
        """All tensors by transformers' names.

        Args:
            dtype: what codes become; None for bfloat16.
        """
        made = {}
        for name, tensor in self._header.tensors.items():
            # it is in the config
            if name != _ROPE:
                order = self._family.order(name, tensor.shape[0])
                called = self._family.name(name)
                made[called] = stored(self._header, tensor, called, order, dtype or _DTYPE)
        return made

    def tokenizer(self) -> dict[str, bytes]:
        """The tokenizer's files, if there is a vocabulary. Raises BadCheckpoint."""
        return tokenizer_files(self._header.path) if _VOCABULARY in self._header.metadata else {}
