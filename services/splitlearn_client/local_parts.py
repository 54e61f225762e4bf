"""Bottom and top: the parts of the model that run in the client service, on one device thread."""

from contextlib import suppress
from functools import partial
from typing import Self

from llm_sepweight import Manifest
from splitlearn.backends.cpu.packing import pack, takes_int4
from splitlearn.backends.memory import free_bytes
from splitlearn.build import build_engine
from splitlearn.checkpoints.load import load_parts, resolve_device
from splitlearn.engine import DeviceThread, Engine, Limits, cores_name
from splitlearn.model.plan import SplitPlan, fingerprint
from splitlearn.runner.select import runner_for
from splitlearn_client.settings import ClientSettings


class LocalParts:
    """The engines of bottom (embeddings and first layers) and top (last layers and head), cut at `plan`."""

    def __init__(
        self,
        bottom: Engine,
        top: Engine,
        plan: SplitPlan,
        expected: str,
        thread: DeviceThread,
        embedding_size: int,
    ) -> None:
        self.bottom = bottom
        self.top = top
        self.plan = plan
        self._thread = thread
        self.fingerprint = expected
        """The fingerprint that a compatible trunk has."""
        self.embedding_size = embedding_size
        """Numbers in a row before the head."""

    @classmethod
    def load(cls, settings: ClientSettings, plan: SplitPlan, thread: DeviceThread) -> Self:
        """Loads both parts. Blocks; call it on the device thread.

        Raises:
            SepweightError, SplitError: the files or the plan do not match the model.
        """
        weights, where = settings.weights, resolve_device(settings.device)
        cut = [plan.bottom, plan.top]
        bottom, top = load_parts(
            weights, cut, device=where, dtype=settings.dtype, keep_int4=takes_int4(settings.quantization)
        )
        # packing takes the weights of linear layers away; some models have narrower rows there than inside
        embedding_size = int(top.model.get_output_embeddings().weight.shape[-1])
        for part in (bottom, top):
            pack(part, settings.quantization)
        top.screens_head = settings.screen_head
        name = str(bottom.dtype).removeprefix("torch.")
        expected = fingerprint(Manifest.read(weights), plan, name)
        limits = Limits(
            max_num_batched_tokens=settings.max_num_batched_tokens,
            max_waiting=settings.max_waiting,
            kv_cache_memory_bytes=(settings.kv_cache_memory_bytes or free_bytes(bottom.device) // 4) // 2,
            max_cached_prefixes=Limits.max_cached_prefixes if settings.enable_prefix_caching else 0,
            queue_timeout=settings.queue_timeout,
        )
        runner = partial(runner_for, kv_cache_dtype=settings.kv_cache_dtype)
        engines = build_engine(bottom, thread, limits, runner=runner), build_engine(top, thread, limits, runner=runner)
        return cls(*engines, plan, expected, thread, embedding_size)

    def learn_trunk_cores(self, name: str | None) -> None:
        """Notes whether the trunk runs on the same CPU cores, where the two slow each other down.

        Args:
            name: the trunk's `splitlearn.engine.cores_name`; None if it does not report one, or runs on a GPU.
        """
        if name is None or self.bottom.part.device.type != "cpu":
            self._thread.shares_cores = False
            return
        # it affects only when steps begin, so an error of the system changes nothing
        with suppress(OSError):
            self._thread.shares_cores = name == cores_name()
