"""What decides whether the fast path is taken: versions, processor, kernels, device, and the model itself."""

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

_PACKAGES = ("torch", "transformers", "grpcio", "safetensors", "tokenizers")


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis.

    Attributes:
        advice: what to do about it; None where all is well.
    """

    name: str
    value: str
    advice: str | None = None


def findings_of_installation() -> Iterator[Finding]:
    """Versions, and whether the package was tested with them."""
    yield Finding("splitlearn", version("splitlearn"))
    yield Finding("python", f"{platform.python_version()} on {platform.platform()}")
    windows = {each.name: each.specifier for each in map(Requirement, requires("splitlearn") or ())}
    for name in _PACKAGES:
        try:
            found = version(name)
        except PackageNotFoundError:
            yield Finding(name, "not installed", f"pip install {name}")
            continue
        window = windows.get(name)
        if window is None or window.contains(found.partition("+")[0], prereleases=True):
            yield Finding(name, found)
        else:
            yield Finding(name, found, f"tested with {name}{window}; install one of these")


def findings_of_machine() -> Iterator[Finding]:
    """Instruction set, kernels, and CUDA."""
    import torch

    from splitlearn.backends.cpu.kernels import available_sets, kernels, why_no_kernels
    from splitlearn.backends.vllm.installation import installed_version, why_unavailable
    from splitlearn.runner.select import why_not_paged

    yield Finding("threads", str(torch.get_num_threads()))
    yield Finding("instruction sets", ", ".join(available_sets()) or "none that our kernels are compiled for")
    reason = why_no_kernels()
    library = kernels() if reason is None else None
    yield Finding("own kernels", "no" if library is None else f"yes, {library.instruction_set}", reason)
    found = installed_version()
    yield Finding("vLLM", found or "not installed", None if found is None else why_unavailable())
    if not torch.cuda.is_available():
        yield Finding("CUDA", f"no (torch {torch.__version__})")
        return
    for index in range(torch.cuda.device_count()):
        reason = why_not_paged(torch.device("cuda", index), torch.bfloat16)
        yield Finding(f"cuda:{index}", torch.cuda.get_device_name(index))
        yield Finding("  paged attention and graphs", _yes(reason is None), reason)


def findings_of_model(
    weights: Path, layers: str | None, device: str, dtype: str | None, quantization: str
) -> Iterator[Finding]:
    """How some layers of a sepweight directory run here. Loads them.

    Args:
        layers: START-END; None takes at most four behind the first that a trunk serves.

    Raises:
        SepweightError, SplitError: the directory, or this way to run it, is no good.
    """
    from llm_sepweight import Manifest
    from splitlearn.backends.cpu.kernels import why_no_kernels
    from splitlearn.backends.cpu.packing import pack
    from splitlearn.checkpoints.load import load_part, resolve_device
    from splitlearn.model.plan import SplitPlan
    from splitlearn.runner.select import runner_for, why_not_batched, why_not_vllm

    manifest = Manifest.read(weights)
    if layers is None:
        plan = SplitPlan.parse(None, manifest.n_layers)
        layers = f"{plan.first}-{min(plan.first + 4, plan.last)}"
    part = load_part(weights, layers, device=resolve_device(device), dtype=dtype)
    pack(part, quantization)
    yield Finding("model", f"{manifest.model_name or manifest.config.get('model_type')}, layers {layers}")
    dtype_name = str(part.dtype).removeprefix("torch.")
    is_slow = part.device.type == "cpu" and dtype_name != "bfloat16"
    advice = "our kernels take bfloat16 alone: --dtype bfloat16" if is_slow else None
    yield Finding("dtype", dtype_name, advice)
    reason = why_not_batched(part)
    yield Finding("sessions share a step", _yes(reason is None), reason)
    reason = why_not_vllm(part, manifest)
    # a GPU's engine: on a CPU it gains nothing
    yield Finding("--engine vllm", "may fit" if reason is None else f"no: {reason}")
    fusion = runner_for(part).fusion
    has_kernels = why_no_kernels() is None and part.device.type == "cpu" and not is_slow
    not_fused = "torch runs the others: they compute something that the kernels do not" if has_kernels else None
    yield Finding("fused attention", f"{fusion.n_fused_attention}/{fusion.n_layers}")
    yield Finding(
        "fused layers",
        f"{fusion.n_fused_layers}/{fusion.n_layers}",
        None if fusion.n_fused_layers == fusion.n_layers else not_fused,
    )
    yield Finding("fused decoder", _yes(fusion.is_decoder_fused))
    if fusion.n_experts:
        are_all = fusion.n_fused_experts == fusion.n_experts
        yield Finding("fused experts", f"{fusion.n_fused_experts}/{fusion.n_experts}", None if are_all else not_fused)


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"
