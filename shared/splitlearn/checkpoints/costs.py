"""What a model on disk takes in memory when it is served: read off sizes and config, without reading a weight."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llm_sepweight import Manifest, PartSpec, load
from llm_sepweight.layout import BEGIN, END, MANIFEST_FILE, section_name, split_place
from llm_sepweight.tensor_file import file_size
from splitlearn.backends.cpu.linear.int4 import packed_bytes
from splitlearn.backends.cpu.linear.screen import screen_bytes
from splitlearn.checkpoints.convert import prepare
from splitlearn.checkpoints.int4 import packed_weights
from splitlearn.checkpoints.load import DTYPES
from splitlearn.checkpoints.opening import is_gguf
from splitlearn.choices import KVCacheDtype, Quantization
from splitlearn.model.footprint import Footprint, LayerFootprint, footprint
from splitlearn.model.layout import config_from_dict
from splitlearn.model.placement import ModelCosts

# Libraries of one process, and what the allocator keeps besides: ARCHITECTURE.md, "Memory of a process".
_PROCESS_BYTES = 512 * 2**20
# Sessions hold whole pages; CUDA's are the largest.
_PAGE_ROWS = 256
# Of a step's rows, the widest tensors and those of the hidden size that live at the same time, in fp32.
_WIDEST_AT_ONCE, _HIDDEN_AT_ONCE, _ACTIVATION_BYTES = 3, 4, 4


@dataclass(frozen=True)
class StoredModel:
    """A model on disk.

    Attributes:
        name: as it is served.
        dtype: torch's name of what most weights are stored in, or "mixed".
        sections: bytes of each, with numbers in place of weights of 4 bits.
        kept_int4: of sections that hold weights of 4 bits, the bytes that these take in memory more, or less, than the
            same weights if they were rounded at load.
        footprint: what it takes beside these.
        head_is_tied: whether the head's weight is that of the embeddings, and in no section of its own.
        is_converted: whether it is a sepweight directory, which is what the services take.
    """

    name: str
    dtype: str
    sections: Mapping[str, int]
    kept_int4: Mapping[str, int]
    footprint: Footprint
    head_is_tied: bool
    is_converted: bool

    @property
    def _number_bytes(self) -> int:
        return DTYPES[self.dtype].itemsize if self.dtype in DTYPES else 4

    @property
    def row_bytes(self) -> int:
        """One row on its way from one worker to the next."""
        return self.footprint.row_width * self._number_bytes

    def costs(
        self,
        *,
        sessions: int,
        context: int,
        quantization: Quantization,
        batched_tokens: int,
        kv_cache_dtype: KVCacheDtype = "auto",
    ) -> ModelCosts:
        """What it takes to serve so many sessions of at most `context` rows each.

        Args:
            batched_tokens: the most rows in one step.
        """
        size, parts = self._number_bytes, self.footprint
        rows = -(-context // _PAGE_ROWS) * _PAGE_ROWS
        weights = [
            self._weight_bytes(section_name(index), layer.linear, quantization)
            for index, layer in enumerate(parts.layers)
        ]
        end = self._weight_bytes(END, parts.head, quantization)
        # the client's CPU packs the head: a copy of its own where it is tied
        end += sum(math.prod(shape) for shape in parts.head) * size if self.head_is_tied else 0
        if quantization == "none" and self.dtype == "bfloat16":
            end += sum(screen_bytes(*shape) for shape in parts.head)
        activations = _WIDEST_AT_ONCE * parts.widest + _HIDDEN_AT_ONCE * parts.row_width
        return ModelCosts(
            layers=tuple(weights),
            cache=tuple(
                sessions * (rows * _row_bytes(layer, size, kv_cache_dtype) + size * layer.state)
                for layer in parts.layers
            ),
            begin=self.sections[BEGIN],
            end=end,
            reserved=_PROCESS_BYTES + batched_tokens * activations * _ACTIVATION_BYTES,
            hop=sessions * self.row_bytes,
        )

    def _weight_bytes(self, section: str, linear: Sequence[tuple[int, int]], quantization: Quantization) -> int:
        saved = sum(_saved(shape, self._number_bytes, quantization) for shape in linear)
        return self.sections[section] - saved + (self.kept_int4.get(section, 0) if quantization == "int4" else 0)


def read_stored(source: Path) -> StoredModel:
    """A sepweight directory, a Hugging Face folder, or a GGUF file. Reads its manifest, or config and headers; of a
    directory with weights of 4 bits also the headers of the files that hold them.

    Raises:
        SepweightError: a directory that has no whole manifest, or lacks such a file.
        SplitError: a checkpoint that cannot be read, or a model that cannot be cut.
    """
    is_folder = (source / "config.json").is_file() and not (source / MANIFEST_FILE).is_file()
    if is_folder or is_gguf(str(source)):
        conversion = prepare(str(source))
        return StoredModel(
            name=conversion.model_name,
            dtype=conversion.dtype,
            sections={name: file_size(tensors) for name, tensors in conversion.sections.items()},
            kept_int4={},
            footprint=footprint(config_from_dict(conversion.config)),
            head_is_tied=_is_head_tied(conversion.tied),
            is_converted=False,
        )
    manifest = Manifest.read(source)
    return StoredModel(
        name=manifest.model_name or "unnamed",
        dtype=manifest.dtype,
        sections={name: manifest.dequantized.get(name, entry.size) for name, entry in manifest.files.items()},
        kept_int4={section: _kept_int4(source, section) for section in manifest.dequantized},
        footprint=footprint(config_from_dict(manifest.config)),
        head_is_tied=_is_head_tied(manifest.tied),
        is_converted=True,
    )


def _row_bytes(layer: LayerFootprint, size: int, kv_cache_dtype: KVCacheDtype) -> int:
    """Of the keys and values of one row."""
    match kv_cache_dtype:
        case "auto":
            return size * layer.row
        case "int8":
            # a scale of four bytes for each head
            return layer.row + 4 * layer.row_heads


def _saved(shape: tuple[int, int], size: int, quantization: Quantization) -> int:
    """Bytes that a linear layer takes less when its weight is held in fewer bits."""
    match quantization:
        case "none":
            return 0
        case "int8":
            return math.prod(shape) * (size - 1) - shape[0] * 4
        case "int4":
            return math.prod(shape) * size - packed_bytes(*shape)


def _kept_int4(source: Path, section: str) -> int:
    weights = load(source, PartSpec.of_sections([section]))
    kept = packed_weights(weights.to_dict(), weights.tied).values()
    return sum(weight.packed_bytes - packed_bytes(weight.shape[0], weight.shape[1]) for weight in kept)


def _is_head_tied(tied: Mapping[str, str]) -> bool:
    return any(split_place(place)[0] == END and split_place(home)[0] == BEGIN for place, home in tied.items())
