"""What runs inside vLLM's workers: the middle rank of a pipeline whose other ranks are not there. Imports vLLM.

One of the two modules that use vLLM's inner names; `executor.py` is the other. Each worker is one process; with tensor
parallelism there are several, and each has a part of every layer.

Shapes: T rows of all requests, D hidden size.
"""

import json
import multiprocessing
import signal
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import vllm.v1.worker.gpu_worker as gpu_worker
from vllm.distributed import parallel_state
from vllm.model_executor.model_loader import register_model_loader
from vllm.model_executor.model_loader.base_loader import BaseModelLoader
from vllm.platforms import current_platform
from vllm.sampling_params import SamplingParams
from vllm.sequence import IntermediateTensors
from vllm.v1.core.sched.output import CachedRequestData, NewRequestData, SchedulerOutput

from llm_sepweight import PartSpec
from splitlearn.backends.vllm.step_plan import StepPlan
from splitlearn.backends.vllm.weights import checkpoint_tensors
from splitlearn.model.layout import config_from_dict
from splitlearn.model.part import cut
from splitlearn.parent_process import end_with_parent

if current_platform.is_cpu():
    from vllm.v1.worker.cpu_worker import CPUWorker as PlatformWorker
else:
    from vllm.v1.worker.gpu_worker import Worker as PlatformWorker

HIDDEN, RESIDUAL = "hidden_states", "residual"
LOAD_FORMAT = "sepweight"


@register_model_loader(LOAD_FORMAT)
class SepweightLoader(BaseModelLoader):
    """Loads layers of a sepweight directory. Its config has `directory`, `spec` and the model's `config` as JSON."""

    def download_model(self, model_config: Any) -> None:
        """Nothing: the files are here."""

    def load_weights(self, model: Any, model_config: Any) -> None:
        given = self.load_config.model_loader_extra_config
        part = cut(config_from_dict(json.loads(given["config"])), PartSpec.parse(given["spec"]))
        model.load_weights(checkpoint_tensors(Path(given["directory"]), part))


class TrunkWorker(PlatformWorker):
    """Serves layers alone: rows go in by `run_rows`, and come out there."""

    def init_device(self) -> None:
        """As vLLM's; the pipeline then has a rank before this one and one behind it, which nobody asks for anything."""
        parent = multiprocessing.parent_process()
        if self.parallel_config.world_size > 1 and parent is not None and parent.pid is not None:
            # at once: one that computes, or waits for another's share, looks for no sign of its parent
            end_with_parent(parent.pid, signal.SIGKILL)
        initialize = gpu_worker.ensure_model_parallel_initialized

        def claim_middle_rank(*args: Any, **options: Any) -> None:
            initialize(*args, **options)
            group = parallel_state.get_pp_group()
            # the first and the last of these are compared with the worker's own rank, and never sent to
            group.ranks = [-1, group.rank, -2]
            group.rank_in_group, group.world_size = 1, 3

        gpu_worker.ensure_model_parallel_initialized = claim_middle_rank
        try:
            super().init_device()
        finally:
            gpu_worker.ensure_model_parallel_initialized = initialize

    def prepare_rows(self) -> list[str]:
        """Allocates what `run_rows` needs; returns the names of what this model's layers pass to each other."""
        runner = self.model_runner
        # one more than the runner's own, into which it copies these
        self._entering = self._empty_rows()
        if runner.intermediate_tensors is None:
            runner.intermediate_tensors = self._empty_rows()
        return sorted(self._entering.tensors)

    def _empty_rows(self) -> Any:
        runner = self.model_runner
        made = runner.model.make_empty_intermediate_tensors(
            batch_size=runner.max_num_tokens, dtype=runner.dtype, device=runner.device
        )
        for tensor in made.tensors.values():
            tensor.zero_()
        return made

    @torch.inference_mode()
    def run_rows(self, plan: StepPlan, rows_TD: torch.Tensor, halve: bool = False) -> torch.Tensor | None:
        """One forward.

        Args:
            rows_TD: in the order of the plan.
            halve: let half of each row enter as hidden states, and half as the residual.

        Returns:
            [T, D] on the CPU, in the same order; None from all workers but the first.
        """
        lengths = plan.lengths
        given = dict(zip(lengths, rows_TD.split(list(lengths.values())), strict=True))
        entering = _InBatchOrder(lambda: self._filled([given[name] for name in self._batch_order()], halve))
        left = self.model_runner.execute_model(_scheduled(plan), entering)
        if self.rank:
            return None
        hidden_TD = left.tensors[HIDDEN][: plan.n_rows]
        if RESIDUAL in left.tensors:
            hidden_TD = hidden_TD + left.tensors[RESIDUAL][: plan.n_rows]
        order = self._batch_order()
        by_name = dict(zip(order, hidden_TD.split([lengths[name] for name in order]), strict=True))
        # a copy: what vLLM returns may be memory of a graph, which the next step overwrites
        return torch.cat([by_name[name] for name in lengths]).cpu()

    def _batch_order(self) -> list[str]:
        """The requests in the order of their rows; known only once the runner has begun the step."""
        return list(self.model_runner.input_batch.req_ids)

    def _filled(self, rows: list[torch.Tensor], halve: bool) -> dict[str, torch.Tensor]:
        """All rows that the runner has room for, as it may read some that only fill up a graph's size."""
        entering: dict[str, torch.Tensor] = self._entering.tensors
        n_rows = sum(each.shape[0] for each in rows)
        torch.cat([each.to(entering[HIDDEN].device) for each in rows], out=entering[HIDDEN][:n_rows])
        if RESIDUAL in entering:
            if halve:
                entering[HIDDEN][:n_rows] /= 2
            entering[RESIDUAL][:n_rows] = entering[HIDDEN][:n_rows] if halve else 0
        return entering


class _InBatchOrder(IntermediateTensors):
    """Rows that are put in order when the runner asks for them: it decides the order after it was given them."""

    def __init__(self, make: Callable[[], dict[str, torch.Tensor]]) -> None:
        self._make = make

    @cached_property
    def tensors(self) -> dict[str, torch.Tensor]:
        return self._make()


def _scheduled(plan: StepPlan) -> Any:
    """What vLLM's own scheduler would say. Token ids are never read by layers alone: zeros stand for them."""
    new, known = [], CachedRequestData.make_empty()
    for each in plan.rows:
        if each.is_new:
            ids = [0] * (each.start + each.length)
            new.append(
                NewRequestData(
                    req_id=each.name,
                    prompt_token_ids=ids,
                    prefill_token_ids=ids,
                    mm_features=[],
                    sampling_params=SamplingParams(temperature=0.0),
                    pooling_params=None,
                    block_ids=(list(each.blocks),),
                    num_computed_tokens=each.start,
                    lora_request=None,
                )
            )
            continue
        known.req_ids.append(each.name)
        known.new_block_ids.append((list(each.blocks),) if each.blocks else None)
        known.num_computed_tokens.append(each.start)
        known.num_output_tokens.append(0)
    return SchedulerOutput(
        scheduled_new_reqs=new,
        scheduled_cached_reqs=known,
        num_scheduled_tokens=plan.lengths,
        total_num_scheduled_tokens=plan.n_rows,
        scheduled_spec_decode_tokens={},
        scheduled_encoder_inputs={},
        finished_req_ids=plan.finished,
        free_encoder_mm_hashes=[],
        kv_cache_block_copies=plan.copies or None,
    )
