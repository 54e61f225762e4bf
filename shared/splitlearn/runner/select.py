"""Chooses how a part is run, and on which backend. No other module names a backend."""

import logging
import os
from dataclasses import replace
from pathlib import Path

import torch

from llm_sepweight import Manifest
from splitlearn.attention.kv_layout import KVLayout
from splitlearn.backends.cpu.attention_metadata import can_read
from splitlearn.backends.cpu.backend import ContiguousBackend
from splitlearn.backends.cpu.kernels import are_off
from splitlearn.backends.cuda.backend import PagedBackend
from splitlearn.backends.cuda.graphs import CudaCapture
from splitlearn.backends.cuda.paged_attention import PagedKernel
from splitlearn.backends.memory import free_bytes
from splitlearn.backends.vllm.environment import prepare
from splitlearn.backends.vllm.installation import check_installed
from splitlearn.backends.vllm.serving_request import ServingRequest
from splitlearn.choices import KVCacheDtype
from splitlearn.errors import BadDevice, UnsupportedModel
from splitlearn.model.part import Part
from splitlearn.runner.batched import BatchedRunner
from splitlearn.runner.sequential import SequentialRunner
from splitlearn.runner.vllm_runner import VLLMRunner


def runner_for(
    part: Part, kv_bytes: int | None = None, kv_cache_dtype: KVCacheDtype = "auto"
) -> BatchedRunner | SequentialRunner:
    """The runner that suits a filled part.

    Runs a few small steps, to measure what a row takes and to see which modules can be fused; that warms up the weights
    too.

    Args:
        kv_bytes: that keys and values may take. None: no bound; on a CUDA device half of its free memory, which is
            allocated now.
        kv_cache_dtype: "auto" holds keys and values as the model computes them, "int8" as levels with a scale for each
            row of a head.

    Raises:
        NoRoom: a CUDA device's memory does not hold a page.
        BadDevice: "int8" for a part or a device that it is not for.
    """
    if kv_cache_dtype == "int8":
        reason = why_not_batched(part)
        if reason is not None:
            raise BadDevice(f"its keys and values cannot be held in int8, as {reason}: use --kv-cache-dtype auto")
        return BatchedRunner(part, kv_bytes, _in_int8)
    if why_not_batched(part) is not None:
        return SequentialRunner(part, kv_bytes)
    return BatchedRunner(part, kv_bytes, _paged if _has_paged_attention(part) else ContiguousBackend)


def vllm_runner_for(
    part: Part,
    kv_bytes: int | None,
    *,
    directory: Path,
    max_rows: int,
    max_requests: int,
    device: str = "auto",
    n_workers: int = 1,
) -> VLLMRunner:
    """A runner that leaves the part's layers to vLLM. Starts vLLM, which reads the weights.

    Args:
        part: need not be filled.
        kv_bytes: that keys and values may take, in all workers together. None: half of the memory that is free beside
            the weights.
        directory: the sepweight directory of the part.
        max_rows, max_requests: rows and sessions in one forward.
        device: "auto", or what this build of vLLM is for: "cpu" or "cuda".
        n_workers: processes that share each layer.

    Raises:
        EngineUnavailable: vLLM is not installed, or another version.
        UnsupportedModel: vLLM cannot serve these layers; the message says why.
        NoRoom: the memory holds too few rows.
        EngineFailed: one of several processes ended or failed while memory was allocated.
    """
    check_installed()
    manifest = Manifest.read(directory)
    reason = why_not_vllm(part, manifest)
    if reason is not None:
        raise UnsupportedModel(reason)
    request = ServingRequest.of(part, directory, manifest, max_rows, max_requests, n_workers)
    prepare(os.environ, request, _cores())
    # only now: vLLM reads the environment as it is imported
    from splitlearn.backends.vllm.executor import VLLMExecutor, device_of_build

    where = device_of_build()
    if device not in ("auto", where.type):
        raise UnsupportedModel(f"this build of vLLM is for {where.type}, and --device is {device}")
    if kv_bytes is None:
        weights = sum(parameter.numel() for parameter in part.model.parameters()) * part.dtype.itemsize
        kv_bytes = max(0, free_bytes(where) - weights // n_workers) // 2
    return VLLMRunner(part, VLLMExecutor(request, kv_bytes), max_rows, max_requests)


def _cores() -> list[int]:
    """The numbers of the cores that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)
    return sorted(allowed(0)) if allowed is not None else list(range(os.cpu_count() or 1))


def why_not_vllm(part: Part, manifest: Manifest) -> str | None:
    """Why vLLM cannot serve these layers, as far as is known before it is asked; None if it can."""
    if part.spec.begin or part.spec.end or len(part.spec.layers) != 1:
        return f"{part.spec} is not layers alone, without a gap"
    if not part.keeps_plain_kv or not part.can_truncate:
        return "its layers keep a recurrent state, or more than keys and values"
    if part.hidden_size != part.config.get_text_config(decoder=True).hidden_size:
        return "its layers keep several streams of rows"
    if manifest.dequantized:
        return "its weights are stored in 4 bits, as our kernels read them"
    return None


def why_not_batched(part: Part) -> str | None:
    """Why sessions of this part cannot share a forward; None if they can."""
    return None if part.keeps_plain_kv else "it keeps a recurrent state, or more than keys and values"


def why_not_paged(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why parts of this dtype have no paged attention on the device; None if they have."""
    kernel = PagedKernel()
    if are_off():
        return "SPLITLEARN_KERNELS=off switches it off; unset it"
    if device.type != "cuda":
        return f"{device.type} devices have none"
    if dtype not in kernel.dtypes:
        return f"FlashAttention takes no {str(dtype).removeprefix('torch.')}; use bfloat16"
    # torch calls AMD's devices "cuda" too; its FlashAttention there reads no pages
    if torch.version.hip is not None or not torch.backends.cuda.is_flash_attention_available():
        return f"torch {torch.__version__} has no FlashAttention for this device"
    if torch.cuda.get_device_capability(device) < kernel.capability:
        return f"the device's compute capability is below {'.'.join(map(str, kernel.capability))}"
    if kernel.lacking:
        return f"varlen_attn of torch {torch.__version__} takes no {', '.join(kernel.lacking)}; use torch 2.13 or newer"
    return None


def _has_paged_attention(part: Part) -> bool:
    reason = why_not_paged(part.device, part.dtype)
    if reason is not None and part.device.type == "cuda":
        logging.getLogger(__name__).warning(
            "attention on %s runs session by session, without CUDA graphs: %s", part.device, reason
        )
    return reason is None


def _in_int8(layout: KVLayout, kv_bytes: int | None) -> ContiguousBackend:
    if not can_read(layout):
        raise BadDevice(
            "keys and values in int8 are for our kernels on a CPU, in bf16 and with heads of one shape: "
            "use --kv-cache-dtype auto"
        )
    return ContiguousBackend(replace(layout, is_int8=True), kv_bytes)


def _paged(layout: KVLayout, kv_bytes: int | None) -> PagedBackend:
    return PagedBackend(layout, kv_bytes, PagedKernel(), CudaCapture(layout.device))
