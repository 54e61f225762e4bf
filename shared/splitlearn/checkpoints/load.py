"""Fill a part from just the sepweight files that it needs, mapped rather than copied where dtypes agree."""

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from llm_sepweight import Manifest, PartSpec, PartStateDict, load
from splitlearn.backends.cpu.linear.int4 import Int4Parameter
from splitlearn.checkpoints.int4 import packed_weights, without_codes
from splitlearn.checkpoints.quantized import refuse_given
from splitlearn.errors import BadCheckpoint, BadDevice
from splitlearn.hf.init import initialize, keep_values
from splitlearn.hf.modeling import has_inputs_first
from splitlearn.model.layout import config_from_dict, storage_dtype
from splitlearn.model.part import Part, cut
from splitlearn.torch_private import own_buffers, own_parameters, stored_buffers

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_part(
    path: Path | str,
    spec: PartSpec | str,
    *,
    device: str = "cpu",
    dtype: str | None = None,
    keep_int4: bool = False,
) -> Part:
    """Builds and fills the part `spec` of the sepweight directory `path`.

    Args:
        path: a sepweight directory; only the part's own files and the manifest need be there.
        spec: which part, for example "b 0-2", "2-22", "22-24 e".
        device: "cpu", "cuda", "cuda:1" ...
        dtype: a key of `DTYPES`; None keeps the dtype of the files, which on the CPU then stay mapped.
        keep_int4: leave weights that the files hold in 4 bits as these, for `splitlearn.backends.cpu.packing.pack`,
            without which such a part cannot run. They are dequantised otherwise, but for one that is tied to numbers,
            which it is then.

    Raises:
        SepweightError: files missing, truncated or unreadable.
        SplitError: a model that cannot be cut, a wrong range, tensors that do not fit the config.
    """
    (part,) = load_parts(path, [spec], device=device, dtype=dtype, keep_int4=keep_int4)
    return part


def load_parts(
    path: Path | str,
    specs: Sequence[PartSpec | str],
    *,
    device: str = "cpu",
    dtype: str | None = None,
    keep_int4: bool = False,
) -> list[Part]:
    """As `load_part`, for several parts in one process. What is tied between them is in memory once."""
    manifest = Manifest.read(Path(path))
    name = dtype or manifest.dtype
    target = resolve_dtype(name)
    # transformers makes derived buffers in the config's dtype
    parts = [cut(config_from_dict({**manifest.config, "dtype": name}), PartSpec.of(spec)) for spec in specs]
    indices = sorted({i for part in parts for i in part.layers})
    whole = PartSpec(
        begin=any(part.spec.begin for part in parts),
        layers=tuple(range(i, i + 1) for i in indices),
        end=any(part.spec.end for part in parts),
    )
    weights = load(path, whole)
    ready: dict[int, torch.Tensor] = {}
    for part in parts:
        fill(part, weights, torch.device(device), target, ready, keep_int4=keep_int4)
    return parts


def unfilled_part(path: Path | str, spec: PartSpec | str, dtype: str | None = None) -> Part:
    """The part `spec` of the sepweight directory `path` without its weights, for what reads these itself.

    Raises:
        SepweightError, SplitError: as `load_part`.
    """
    manifest = Manifest.read(Path(path))
    name = dtype or manifest.dtype
    part = cut(config_from_dict({**manifest.config, "dtype": name}), PartSpec.of(spec))
    part.dtype = resolve_dtype(name)
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


def fill(
    part: Part,
    weights: PartStateDict,
    device: torch.device,
    dtype: torch.dtype,
    ready: dict[int, torch.Tensor] | None = None,
    *,
    keep_int4: bool = False,
) -> None:
    """Gives every parameter and buffer of the part a real tensor; each is used without a copy if it fits.

    Args:
        ready: tensors in use already, by the id of the one in `weights` that each was made of. Grows.
        keep_int4: as for `load_part`.

    Raises:
        BadCheckpoint: a tensor is missing or has another shape, or codes of 4 bits are not whole.
        UnsupportedModel: codes stand where the part wants numbers.
    """
    given = weights.to_dict()
    by_name: dict[str, torch.Tensor] = without_codes(given)
    for name, packed in packed_weights(given, weights.tied).items():
        if keep_int4 or name not in by_name:
            by_name[name] = Int4Parameter.of(packed, dtype)
    ready = {} if ready is None else ready
    wanted = part.model.state_dict(keep_vars=True)
    places = {key: place for key in wanted if (place := ".".join(_place(part, key))) in by_name}
    refuse_given("the directory", wanted, by_name, places)
    for path, module in part.model.named_modules():
        for name, empty in _stored_tensors(module):
            key = f"{path}.{name}" if path else name
            stored = _stored(part, by_name, key)
            if isinstance(stored, Int4Parameter) and has_inputs_first(module):
                stored = stored.t()
            if stored.shape != empty.shape:
                raise BadCheckpoint(
                    f"{key} should have the shape {list(empty.shape)}, the file has {list(stored.shape)}"
                )
            # tied tensors are one object in `weights`, and stay one after a cast or a copy to the device
            source = id(stored.packed.levels_NH if isinstance(stored, Int4Parameter) else stored)
            if source not in ready:
                made_as = storage_dtype(part.model, key, stored.dtype, dtype)
                ready[source] = _ready(stored, device, made_as, keep_int4=keep_int4 and name in own_parameters(module))
            tensor = ready[source]
            if isinstance(tensor, Int4Parameter):
                own_parameters(module)[name] = tensor
            elif name in own_parameters(module):
                own_parameters(module)[name] = nn.Parameter(tensor, requires_grad=False)
            else:
                own_buffers(module)[name] = tensor
    _fill_derived_buffers(part, device)
    part.dtype = dtype


def _ready(stored: torch.Tensor, device: torch.device, dtype: torch.dtype, *, keep_int4: bool) -> torch.Tensor:
    if not isinstance(stored, Int4Parameter):
        return stored.to(device=device, dtype=dtype)
    made = Int4Parameter.of(stored.packed, dtype, is_transposed=stored.is_transposed)
    return made if keep_int4 else made.dequantized().detach().to(device)


def _stored_tensors(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """The module's own parameters and those of its buffers that files hold."""
    own = {**own_parameters(module), **stored_buffers(module)}
    return [(name, tensor) for name, tensor in own.items() if tensor is not None]


def _stored(part: Part, by_name: dict[str, torch.Tensor], key: str) -> torch.Tensor:
    section, name = _place(part, key)
    tensor = by_name.get(f"{section}.{name}")
    if tensor is None:
        raise BadCheckpoint(f"the {section} file lacks the tensor {name}; convert the checkpoint again")
    return tensor


def _place(part: Part, key: str) -> tuple[str, str]:
    """Section and name, as in the keys of `PartStateDict.to_dict`, of one of the part's tensors."""
    section, layer, name = part.layout.place(key)
    return (section if layer is None else f"mid.{layer + part.layers.start}"), name


def _fill_derived_buffers(part: Part, device: torch.device) -> None:
    """Computes what is derived from the config and stored nowhere: rotary tables, embedding scales.

    transformers' own initialisation does it; it leaves alone what is marked as initialised.
    """
    modules = dict(part.model.named_modules())
    deriving: set[str] = set()
    for path, module in modules.items():
        own = (*own_parameters(module).values(), *own_buffers(module).values())
        keep_values(tensor for tensor in own if tensor is not None)
        for name, buffer in own_buffers(module).items():
            if buffer is not None and buffer.is_meta:
                own_buffers(module)[name] = torch.empty_like(buffer, device=device)
                # some modules derive what those inside them hold
                deriving.update(_path_and_above(path))
    for path in sorted(deriving, key=len, reverse=True):
        owners = [modules[above] for above in _path_and_above(path)]
        owner = next((module for module in owners if isinstance(module, PreTrainedModel)), part.model)
        initialize(owner, modules[path])


def _path_and_above(path: str) -> list[str]:
    """The innermost first, without the outermost model, which derives nothing and may lack its head."""
    names = path.split(".")
    return [".".join(names[:depth]) for depth in range(len(names), 0, -1)]
