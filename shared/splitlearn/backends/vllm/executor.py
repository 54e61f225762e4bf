"""Starts vLLM's workers, without its engine and its scheduler, and runs forwards on them. Imports vLLM.

One of the two modules that use vLLM's inner names; `worker.py` is the other.

Shapes: T rows of all requests, D hidden size.
"""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from vllm.config import set_current_vllm_config
from vllm.distributed.parallel_state import cleanup_dist_env_and_memory
from vllm.engine.arg_utils import EngineArgs
from vllm.platforms import current_platform
from vllm.v1.attention.backends.utils import resolve_kv_cache_layout
from vllm.v1.core.kv_cache_utils import get_kv_cache_configs
from vllm.v1.core.single_type_kv_cache_manager import register_all_kvcache_specs
from vllm.v1.executor import Executor
from vllm.v1.kv_cache_interface import AttentionSpec

from splitlearn.backends.vllm.blocks import CacheSize
from splitlearn.backends.vllm.serving_request import ServingRequest
from splitlearn.backends.vllm.step_plan import StepPlan
from splitlearn.backends.vllm.worker import HIDDEN, LOAD_FORMAT, RESIDUAL, TrunkWorker
from splitlearn.backends.vllm.worker_watch import WorkerWatch
from splitlearn.errors import EngineFailed, NoRoom, SplitError, UnsupportedModel, one_line

# by which vLLM says what it does not do
_REFUSALS = (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
# equal to a block of the engine's prefix cache, and what vLLM's attention on CPUs likes; elsewhere vLLM chooses
_CPU_BLOCK_ROWS = 32


def device_of_build() -> torch.device:
    """What this build of vLLM computes on."""
    return torch.device(current_platform.device_type)


class VLLMExecutor:
    """Some layers on vLLM's workers: one in this process, or several in processes of their own.

    Args:
        kv_bytes: for keys and values, in all workers together.

    Raises:
        UnsupportedModel: vLLM has no such model, or cannot run its layers without the others.
        NoRoom: the memory for keys and values holds too few rows.
        EngineFailed: one of several processes failed once it had loaded its share of the layers.
    """

    def __init__(self, request: ServingRequest, kv_bytes: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="splitlearn-vllm-")
        (Path(self._folder.name) / "config.json").write_text(json.dumps(request.config), encoding="utf-8")
        self._config = _engine_config(request, kv_bytes, self._folder.name)
        self._executor = self._start()
        self._is_shared = request.n_workers > 1
        self._watch = WorkerWatch([each.proc for each in self._executor.workers] if self._is_shared else [])
        try:
            with self._all_or_none():
                self.cache = self._allocate(kv_bytes)
                self._check_boundary()
        except Exception:
            self.close()
            raise

    @property
    def device(self) -> torch.device:
        return device_of_build()

    def run(self, plan: StepPlan, rows_TD: torch.Tensor, *, halve: bool = False) -> torch.Tensor:
        """One forward; rows in the order of the plan, [T, D] on the CPU. `halve` as for `TrunkWorker.run_rows`.

        Raises:
            EngineFailed: one of several processes has ended or failed, now or before.
        """
        with self._all_or_none():
            outputs = self._executor.collective_rpc("run_rows", args=(plan, rows_TD, halve))
        return torch.as_tensor(outputs[0])

    def on_failure(self, tell: Callable[[EngineFailed], None]) -> None:
        """As `Runner.on_failure`."""
        self._watch.on_failure(tell)

    @contextmanager
    def _all_or_none(self) -> Iterator[None]:
        """Ends all of several workers if one fails: others may wait for its share, or go on without it."""
        try:
            yield
        except SplitError:
            raise
        except Exception as error:
            if not self._is_shared:
                raise
            raise self._watch.fail(f"a process of the engine failed: {one_line(error)}") from error

    def close(self) -> None:
        """Ends the workers."""
        self._watch.close()
        self._executor.shutdown()
        self._folder.cleanup()
        # of the worker in this process; where there are several, theirs end with them
        cleanup_dist_env_and_memory()

    def _start(self) -> Any:
        """The workers, with their weights."""
        set_threads = torch.set_num_threads
        try:
            return Executor.get_class(self._config)(self._config)
        except torch.OutOfMemoryError:
            raise
        except _REFUSALS as error:
            raise UnsupportedModel(f"vLLM fails while it loads them: {one_line(error)}") from error
        finally:
            # vLLM's worker for CPUs replaces it
            torch.set_num_threads = set_threads

    def _allocate(self, kv_bytes: int) -> CacheSize:
        executor, config = self._executor, self._config
        register_all_kvcache_specs(config)
        specs = executor.get_kv_cache_specs()
        every = [spec for worker in specs for spec in worker.values()]
        if not all(isinstance(spec, AttentionSpec) for spec in every):
            raise UnsupportedModel("vLLM keeps a recurrent state for this model, which cannot be cut by blocks")
        with set_current_vllm_config(config):
            layout = resolve_kv_cache_layout(config, executor.get_supported_kv_cache_layouts(), every)
            executor.set_kv_cache_layout(layout.name)
            memory = executor.determine_available_memory()
            try:
                caches = get_kv_cache_configs(config, specs, memory)
            except ValueError as error:
                raise NoRoom(f"{kv_bytes} bytes for keys and values are too few for vLLM: {error}") from error
            for cache in caches:
                cache.kv_cache_layout = config.cache_config.kv_cache_layout
            max_rows = config.model_config.max_model_len
            executor.collective_rpc("update_max_model_len", args=(max_rows,))
            executor.initialize_from_config(caches)
            executor.compile_or_warm_up_model()
        cache = caches[0]
        if len(cache.kv_cache_groups) != 1:
            raise UnsupportedModel(f"vLLM keeps {len(cache.kv_cache_groups)} kinds of blocks for this model's layers")
        block_rows = cache.kv_cache_groups[0].kv_cache_spec.block_size
        n_bytes = sum(tensor.size for each in caches for tensor in each.kv_cache_tensors)
        return CacheSize(cache.num_blocks, block_rows, n_bytes // (cache.num_blocks * block_rows), max_rows)

    def _check_boundary(self) -> None:
        """Raises UnsupportedModel if layers pass more to each other than rows, whole or in two summands."""
        names = set(self._executor.collective_rpc("prepare_rows")[0])
        if names not in ({HIDDEN}, {HIDDEN, RESIDUAL}):
            raise UnsupportedModel(f"layers of this model pass {', '.join(sorted(names))} to each other in vLLM")


def _engine_config(request: ServingRequest, kv_bytes: int, folder: str) -> Any:
    is_cpu = current_platform.is_cpu()
    try:
        return EngineArgs(
            model=folder,
            skip_tokenizer_init=True,
            # vLLM's own code for the model or none: other code of its passes other tensors between the ranks
            model_impl="vllm",
            dtype=request.dtype,
            load_format=LOAD_FORMAT,
            model_loader_extra_config={
                "directory": str(request.directory),
                "spec": str(request.spec),
                "config": json.dumps({**request.config, "dtype": request.dtype}),
            },
            # as many as the memory for keys and values holds, at most the model's own
            max_model_len=-1,
            max_num_batched_tokens=request.max_rows,
            max_num_seqs=request.max_requests,
            kv_cache_memory_bytes=kv_bytes // request.n_workers,
            block_size=_CPU_BLOCK_ROWS if is_cpu else None,
            # one kind of blocks: windows are left to the attention, so that sessions can go back
            disable_hybrid_kv_cache_manager=True,
            enable_prefix_caching=False,
            async_scheduling=False,
            tensor_parallel_size=request.n_workers,
            distributed_executor_backend="uni" if request.n_workers == 1 else "mp",
            worker_cls=f"{TrunkWorker.__module__}.{TrunkWorker.__name__}",
            # graphs pay on a GPU; on a CPU to compile takes minutes and saves little
            enforce_eager=is_cpu,
            disable_log_stats=True,
        ).create_engine_config()
    except _REFUSALS as error:
        raise UnsupportedModel(f"vLLM does not take this model: {one_line(error)}") from error
