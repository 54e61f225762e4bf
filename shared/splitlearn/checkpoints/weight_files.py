"""The files that hold a checkpoint's weights, and the tensors in them, none of which is read before it is asked for."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from llm_sepweight import FileError
from llm_sepweight.torch_file import open_torch_file
from splitlearn.checkpoints.folder import foreign, inside, read_json_object
from splitlearn.checkpoints.int4 import Int4Codes
from splitlearn.errors import BadCheckpoint

_INDEX = ".index.json"
# In transformers' own order.
_CANDIDATES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_ADAPTERS = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
# What other programs keep weights in.
_OTHERS = ("*.gguf", "*.h5", "*.msgpack", "*.onnx", "*.ckpt", "*.pth", "*.pt", "*.npz", "*.safetensors", "*.bin")

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
    "F4": torch.float4_e2m1fn_x2,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a checkpoint's file, not read yet; `dtype` is the one that it is stored in.

    Attributes:
        made_of: the names in the files of what `read` reads, where those are others than `key`.
        int4: the codes that `read` dequantises, where they are levels of 4 bits.
    """

    key: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    read: Callable[[], torch.Tensor]
    made_of: tuple[str, ...] = ()
    int4: Int4Codes | None = None

    @classmethod
    def of(cls, key: str, tensor: torch.Tensor) -> "StoredTensor":
        """A tensor that is already at hand."""
        return cls(key, tensor.dtype, tuple(tensor.shape), lambda: tensor)

    def outline(self) -> torch.Tensor:
        """Shape and dtype without the values: a tensor on the meta device."""
        return torch.empty(self.shape, dtype=self.dtype, device="meta")


def commonest_dtype(tensors: Iterable[StoredTensor]) -> torch.dtype | None:
    """The floating-point dtype that most numbers are stored in; None if there are none. Codes of 8 bits are none."""
    counts: Counter[torch.dtype] = Counter()
    for tensor in tensors:
        if tensor.dtype.is_floating_point and tensor.dtype.itemsize > 1:
            counts[tensor.dtype] += torch.Size(tensor.shape).numel()
    return counts.most_common(1)[0][0] if counts else None


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """All tensors of the checkpoint in `folder`, by the names that they have in its files.

    Raises:
        BadCheckpoint: no weights in the folder; an adapter for those of another model; an index that cannot be read,
            or names a file that is not there or outside the folder; or a file that is not what its name says.
    """
    files, homes = _weight_files(folder)
    stored: dict[str, StoredTensor] = {}
    for file in files:
        found = _from_safetensors(file) if file.suffix == ".safetensors" else _from_pickle(file)
        # where two shards hold one name, the index says which is meant
        stored |= {key: tensor for key, tensor in found.items() if key not in stored or homes.get(key) == file}
    return stored


def _weight_files(folder: Path) -> tuple[list[Path], dict[str, Path]]:
    """The files to read, and for tensors that an index names the one of them that holds each."""
    adapter = next((name for name in _ADAPTERS if (folder / name).exists()), None)
    if adapter is not None:
        raise BadCheckpoint(
            f"{folder / adapter} belongs to a LoRA adapter, which is not supported; "
            "merge it into its base model (peft: merge_and_unload), and convert the result"
        )
    name = next((name for name in _CANDIDATES if inside(folder, name).is_file()), None)
    if name is None:
        raise BadCheckpoint(
            f"{folder} holds neither model.safetensors nor pytorch_model.bin, whole or in shards{_others(folder)}"
        )
    if not name.endswith(_INDEX):
        return [folder / name], {}
    homes = {key: inside(folder, file, name) for key, file in weight_map(folder / name, name).items()}
    files = sorted(set(homes.values()))
    missing = next((file for file in files if not file.is_file()), None)
    if missing is not None:
        raise BadCheckpoint(f"{name} names {missing.name}, which is not in {folder}; download it again")
    return files, homes


def _others(folder: Path) -> str:
    others = sorted(path.name for pattern in _OTHERS for path in folder.glob(pattern))
    if not others:
        return ""
    gguf = "; give the .gguf file itself" if others[0].endswith(".gguf") else ""
    return f", but {others[0]}, which is not read{gguf}"


def weight_map(index: Path, name: str) -> dict[str, str]:
    """By tensor: the file that holds it, as an index of shards says. `name` is the index file's in its checkpoint.

    Raises:
        BadCheckpoint: it is no index of files with the ending of its own name.
    """
    found = read_json_object(index, "an index of shards").get("weight_map")
    ending = name.removesuffix(_INDEX).rpartition(".")[2]
    if not isinstance(found, dict) or not found:
        raise BadCheckpoint(f"{index} is not an index of shards; download it again")
    if not all(isinstance(file, str) and file.endswith(f".{ending}") for file in found.values()):
        raise BadCheckpoint(f"{index} is not an index of shards that end in .{ending}; download it again")
    return found


def _from_safetensors(file: Path) -> dict[str, StoredTensor]:
    def tensor(key: str, outline: Any) -> StoredTensor:
        # opened per tensor: the mapping, and with it the shard's pages, is given back after each
        def read() -> torch.Tensor:
            with safe_open(file, framework="pt") as opened:
                return torch.as_tensor(opened.get_tensor(key))

        return StoredTensor(key, DTYPES[outline.get_dtype()], tuple(outline.get_shape()), read)

    try:
        with safe_open(file, framework="pt") as opened:
            return {key: tensor(key, opened.get_slice(key)) for key in opened.keys()}  # noqa: SIM118 (not a dict)
    except KeyError as error:
        raise BadCheckpoint(f"{file} holds quantised weights, of a dtype that torch does not have: {error}") from error
    except (OSError, SafetensorError) as error:
        reason = foreign(file) or f"cannot be read as safetensors: {error}; download it again"
        raise BadCheckpoint(f"{file} {reason}") from error


def _from_pickle(file: Path) -> dict[str, StoredTensor]:
    state = _unpickled(file)
    if not isinstance(state, dict):
        raise BadCheckpoint(f"{file} holds a {type(state).__name__}, not a dict of names and tensors")
    other = next((key for key, value in state.items() if not isinstance(key, str) or not _is_plain(value)), None)
    if other is not None:
        raise BadCheckpoint(
            f"{file} should hold names and tensors, but {other!r} is a {type(state[other]).__name__}; "
            "save the model's state_dict alone"
        )

    return {key: StoredTensor.of(key, value) for key, value in state.items()}


def _is_plain(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_meta


def _unpickled(file: Path) -> Any:
    if (reason := foreign(file)) is not None:
        raise BadCheckpoint(f"{file} {reason}")
    try:
        return open_torch_file(file)
    except FileError as error:
        raise BadCheckpoint(str(error)) from error
