"""The client's own parts: bottom and top on this machine, on one device thread."""

from contextlib import suppress
from typing import Self

from client_service.settings import ClientSettings
from llm_sepweight import Manifest
from splitlearn.engine import DeviceThread, Engine, Limits, cores_name
from splitlearn.kv.budget import free_bytes
from splitlearn.loading import load_parts, resolve_device
from splitlearn.packing import pack
from splitlearn.plan import SplitPlan, fingerprint


class LocalParts:
    """Embeddings and first layers, last layers and head of one model, cut at `plan`."""

    def __init__(self, bottom: Engine, top: Engine, plan: SplitPlan, expected: str, thread: DeviceThread) -> None:
        self.bottom = bottom
        self.top = top
        self.plan = plan
        self._thread = thread
        self.fingerprint = expected
        """What a trunk must answer to fit between them."""

    @classmethod
    def load(cls, settings: ClientSettings, plan: SplitPlan, thread: DeviceThread) -> Self:
        """Reads both parts from their files; blocking, runs on the device thread.

        Raises:
            SepweightError, SplitError: files or plan do not fit the model.
        """
        weights, where = settings.weights, resolve_device(settings.device)
        bottom, top = load_parts(weights, [plan.bottom, plan.top], device=where, dtype=settings.dtype)
        for part in (bottom, top):
            pack(part, settings.quantization)
        name = str(bottom.dtype).removeprefix("torch.")
        expected = fingerprint(Manifest.read(weights), plan, name)
        limits = Limits(
            max_num_batched_tokens=settings.max_num_batched_tokens,
            max_waiting=settings.max_waiting,
            kv_cache_memory_bytes=(settings.kv_cache_memory_bytes or free_bytes(bottom.device) // 4) // 2,
            max_cached_prefixes=Limits.max_cached_prefixes if settings.enable_prefix_caching else 0,
            queue_timeout=settings.queue_timeout,
        )
        return cls(Engine(bottom, thread, limits), Engine(top, thread, limits), plan, expected, thread)

    def learn_trunk_cores(self, name: str | None) -> None:
        """Takes in where the trunk computes. What runs here while it does would slow it down on the same cores.

        Args:
            name: from the trunk, see `splitlearn.engine.cores_name`; None if it does not say, or is no processor.
        """
        if name is None or self.bottom.part.device.type != "cpu":
            self._thread.shares_cores = False
            return
        # only how soon a step begins hangs on it; where the system cannot say now, it stays as it was
        with suppress(OSError):
            self._thread.shares_cores = name == cores_name()
