"""What a model on disk takes in memory when it is served: read off sizes and config, without reading a weight."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llm_sepweight import Manifest
from llm_sepweight.layout import BEGIN, END, MANIFEST_FILE, section_name, split_place
from llm_sepweight.tensor_file import file_size
from splitlearn.backends.cpu.linear.screen import screen_bytes
from splitlearn.checkpoints.convert import prepare
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
        footprint: what it takes beside these.
        head_is_tied: whether the head's weight is that of the embeddings, and in no section of its own.
        is_converted: whether it is a sepweight directory, which is what the services take.
    """

    name: str
    dtype: str
    sections: Mapping[str, int]
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
        weights = [self.sections[section_name(index)] for index in range(len(parts.layers))]
        head, outputs = parts.head
        end = self.sections[END]
        saved = [_saved(layer.linear, layer.linear_outputs, size, quantization) for layer in parts.layers]
        weights = [each - less for each, less in zip(weights, saved, strict=True)]
        # the client's CPU packs the head: a copy of its own where it is tied
        end += head * size if self.head_is_tied else 0
        end -= _saved(head, outputs, size, quantization)
        if quantization == "none" and self.dtype == "bfloat16":
            end += screen_bytes(head, outputs)
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


def read_stored(source: Path) -> StoredModel:
    """A sepweight directory, a Hugging Face folder, or a GGUF file. Reads its manifest, or config and headers.

    Raises:
        SepweightError: a directory that has no whole manifest.
        SplitError: a checkpoint that cannot be read, or a model that cannot be cut.
    """
    is_folder = (source / "config.json").is_file() and not (source / MANIFEST_FILE).is_file()
    if is_folder or is_gguf(str(source)):
        conversion = prepare(str(source))
        return StoredModel(
            name=conversion.model_name,
            dtype=conversion.dtype,
            sections={name: file_size(tensors) for name, tensors in conversion.sections.items()},
            footprint=footprint(config_from_dict(conversion.config)),
            head_is_tied=_is_head_tied(conversion.tied),
            is_converted=False,
        )
    manifest = Manifest.read(source)
    return StoredModel(
        name=manifest.model_name or "unnamed",
        dtype=manifest.dtype,
        sections={name: manifest.dequantized.get(name, entry.size) for name, entry in manifest.files.items()},
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


def _saved(n_weights: int, n_outputs: int, size: int, quantization: Quantization) -> int:
    """Bytes that linear layers take less when their weights are held in fewer bits."""
    match quantization:
        case "none":
            return 0
        case "int8":
            return n_weights * (size - 1) - n_outputs * 4
        case "int4":
            # a scale of two bytes for 32 weights
            return n_weights * size - n_weights * 9 // 16


def _is_head_tied(tied: Mapping[str, str]) -> bool:
    return any(split_place(place)[0] == END and split_place(home)[0] == BEGIN for place, home in tied.items())
