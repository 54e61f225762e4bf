"""A part's weights in one file, and beside it what has to be known to use them."""

import json
import reprlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from llm_sepweight import MissingFileError, TensorSource
from llm_sepweight.mapped_file import map_tensors
from llm_sepweight.publishing import publish, synced_file, temporary
from llm_sepweight.tensor_file import write_tensor_file
from llm_sepweight.torch_file import open_pickle
from splitlearn.errors import BadCheckpoint

FORMAT_VERSION = 1
_SAFETENSORS = ".safetensors"
_PICKLES = (".pt", ".pth", ".bin")
_PARTS = ("bottom", "trunk", "top")
# What metadata must be for the part to be made; the other fields only tell.
_KINDS: dict[str, type | tuple[type, ...]] = {
    "model_type": str,
    "part": str,
    "start_layer": int,
    "end_layer": (int, type(None)),
    "config": dict,
}


@dataclass(frozen=True)
class SavedPart:
    """The content of a `*_metadata.json`.

    `start_layer` and `end_layer` are half-open; `end_layer` is None for a top that does not know its depth.
    `config` is the whole model's. The same metadata serve a `.pt` and a `.safetensors` of one name.
    """

    format_version: int
    model_type: str
    part: str
    start_layer: int
    end_layer: int | None
    dtype: str
    parameters: int
    config: dict[str, Any]

    @classmethod
    def read(cls, weights: Path) -> "SavedPart":
        """What is known about the file `weights`.

        Raises:
            BadCheckpoint: no metadata beside it, or they are damaged, or another version's.
        """
        path = metadata_path(weights)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            saved = cls(**content)
        except FileNotFoundError as error:
            raise BadCheckpoint(f"{path} is missing; copy it with the weights, or save the part again") from error
        except (ValueError, TypeError, RecursionError) as error:
            reason = " ".join(str(error).split())[:200]
            raise BadCheckpoint(f"{path} is not the metadata of a saved part: {reason}; save the part again") from error
        if saved.format_version != FORMAT_VERSION:
            raise BadCheckpoint(
                f"{path} has format version {saved.format_version}, this version of splitlearn reads {FORMAT_VERSION}"
            )
        wrong = next((name for name, kinds in _KINDS.items() if not isinstance(getattr(saved, name), kinds)), None)
        if wrong is not None or saved.part not in _PARTS:
            named = wrong or "part"
            raise BadCheckpoint(
                f"{path} is not the metadata of a saved part: {named} is {reprlib.repr(getattr(saved, named))}; "
                "save the part again"
            )
        return saved


def metadata_path(weights: Path) -> Path:
    """`gpt2_2-10_bottom.pt` -> `gpt2_2-10_bottom_metadata.json`."""
    return weights.with_name(f"{weights.stem}_metadata.json")


def write_weights(weights: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Writes a state dict, as safetensors or as `torch.save` does, by the file's suffix; its folder is made.

    The file appears whole or not at all.

    Raises:
        BadCheckpoint: another suffix.
    """
    if weights.suffix not in (_SAFETENSORS, *_PICKLES):
        raise BadCheckpoint(f"cannot tell the format of {weights}; end it in {_SAFETENSORS} or {', '.join(_PICKLES)}")
    weights.parent.mkdir(parents=True, exist_ok=True)
    if weights.suffix == _SAFETENSORS:
        write_tensor_file(temporary(weights), [TensorSource.of(name, tensor) for name, tensor in tensors.items()])
    else:
        with synced_file(temporary(weights)) as file:
            torch.save({name: _alone(tensor) for name, tensor in tensors.items()}, file)
    publish(weights)


def write_metadata(weights: Path, saved: SavedPart) -> None:
    """Writes the description of the file `weights`, which must be there."""
    path = metadata_path(weights)
    with synced_file(temporary(path)) as file:
        file.write((json.dumps(asdict(saved), indent=2, ensure_ascii=False) + "\n").encode())
    publish(path)


def read_weights(weights: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file that `write_weights` wrote, mapped where the format allows it; pickles weights-only.

    Raises:
        FileError: see `llm_sepweight`.
    """
    if not weights.is_file():
        raise MissingFileError(weights, None)
    return map_tensors(weights) if weights.suffix == _SAFETENSORS else open_pickle(weights)


def _alone(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor without its neighbours: torch.save writes the whole storage, which may be a mapped checkpoint."""
    tensor = tensor.detach()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
