"""Fill a part from just the sepweight files that it needs, mapped rather than copied where dtypes agree."""

import re
from pathlib import Path

import torch
from torch import nn

from llm_sepweight import Manifest, PartSpec, PartStateDict, load
from splitlearn.anatomy import config_from_dict, storage_dtype
from splitlearn.errors import BadCheckpoint, BadDevice
from splitlearn.part import Part, cut

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_part(path: Path | str, spec: PartSpec | str, *, device: str = "cpu", dtype: str | None = None) -> Part:
    """Builds and fills the part `spec` of the sepweight directory `path`.

    Args:
        path: a sepweight directory; only the part's own files and the manifest need be there.
        spec: which part, for example "b 0-2", "2-22", "22-24 e".
        device: "cpu", "cuda", "cuda:1" ...
        dtype: a key of `DTYPES`; None keeps the dtype of the files, which on the CPU then stay mapped.

    Raises:
        SepweightError: files missing, truncated or unreadable.
        SplitError: a model that cannot be cut, a wrong range, tensors that do not fit the config.
    """
    manifest = Manifest.read(Path(path))
    spec = PartSpec.parse(spec) if isinstance(spec, str) else spec
    name = dtype or manifest.dtype
    target = resolve_dtype(name)
    # transformers makes derived buffers in the config's dtype
    part = cut(config_from_dict({**manifest.config, "dtype": name}), spec)
    fill(part, load(path, part.spec), torch.device(device), target)
    return part


def resolve_device(name: str) -> str:
    """The device that "auto" stands for here, or `name` itself if it is usable.

    Raises:
        BadDevice: not such a name, or CUDA was asked for and torch finds none.
    """
    if re.fullmatch(r"auto|cpu|cuda(:\d+)?", name) is None:
        raise BadDevice(f"device {name!r} is unknown; choose auto, cpu, cuda or cuda:N")
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise BadDevice(f"device {name!r} was asked for, but torch {torch.__version__} finds no CUDA device here")
    return name


def resolve_dtype(name: str) -> torch.dtype:
    """The torch dtype of a name.

    Raises:
        BadDevice: not one of `DTYPES`.
    """
    if name not in DTYPES:
        raise BadDevice(f"dtype {name!r} cannot be run; choose one of {', '.join(DTYPES)}")
    return DTYPES[name]


def fill(part: Part, weights: PartStateDict, device: torch.device, dtype: torch.dtype) -> None:
    """Gives every parameter and buffer of the part a real tensor; each is used without a copy if it fits."""
    named = {**dict(part.model.named_parameters(remove_duplicate=False))}
    named |= {k: b for k, b in part.model.named_buffers() if k in part.model.state_dict(keep_vars=True)}
    by_name = weights.to_dict()
    ready: dict[int, torch.Tensor] = {}
    state: dict[str, torch.Tensor] = {}
    for key, empty in named.items():
        stored = _stored(part, by_name, key)
        if stored.shape != empty.shape:
            raise BadCheckpoint(f"{key} should have the shape {list(empty.shape)}, the file has {list(stored.shape)}")
        wanted = storage_dtype(part.model, key, stored.dtype, dtype)
        # tied tensors are one object in `weights`, and stay one after a cast or a copy to the device
        state[key] = ready.setdefault(id(stored), stored.to(device=device, dtype=wanted))
    for key, tensor in state.items():
        _assign(part.model, key, tensor)
    _fill_derived_buffers(part, device)
    part.requires_grad_(False)
    part.dtype = dtype


def _stored(part: Part, by_name: dict[str, torch.Tensor], key: str) -> torch.Tensor:
    section, layer, name = part.anatomy.place(key)
    if layer is not None:
        section = f"mid.{layer + part.layers.start}"
    tensor = by_name.get(f"{section}.{name}")
    if tensor is None:
        raise BadCheckpoint(f"the {section} file lacks the tensor {name}; convert the checkpoint again")
    return tensor


def _assign(model: nn.Module, key: str, tensor: torch.Tensor) -> None:
    owner = model.get_submodule(key.rpartition(".")[0])
    name = key.rpartition(".")[2]
    if name in owner._parameters:
        owner._parameters[name] = nn.Parameter(tensor, requires_grad=False)
    else:
        owner._buffers[name] = tensor


def _fill_derived_buffers(part: Part, device: torch.device) -> None:
    """Computes what is derived from the config and stored nowhere: rotary tables, embedding scales.

    transformers' own initialisation does it; it leaves alone what is marked as initialised.
    """
    for tensor in (*part.model.parameters(), *part.model.buffers()):
        tensor._is_hf_initialized = True
    for module in part.model.modules():
        for name, buffer in list(module._buffers.items()):
            if buffer is not None and buffer.is_meta:
                module._buffers[name] = torch.empty_like(buffer, device=device)
    # the outermost model derives nothing, and its head may be another part's
    part.model._is_hf_initialized = True
    part.model.initialize_weights()
