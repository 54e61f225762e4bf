"""Chooses how a part is run, and on which backend. No other module names a backend."""

import logging
from dataclasses import replace

import torch

from splitlearn.attention.kv_layout import KVLayout
from splitlearn.backends.cpu.attention_metadata import can_read
from splitlearn.backends.cpu.backend import ContiguousBackend
from splitlearn.backends.cpu.kernels import are_off
from splitlearn.backends.cuda.backend import PagedBackend
from splitlearn.backends.cuda.graphs import CudaCapture
from splitlearn.backends.cuda.paged_attention import PagedKernel
from splitlearn.choices import KVCacheDtype
from splitlearn.errors import BadDevice
from splitlearn.model.part import Part
from splitlearn.runner.batched import BatchedRunner
from splitlearn.runner.sequential import SequentialRunner


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
