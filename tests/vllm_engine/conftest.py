"""Trunks on vLLM, beside the whole Hugging Face model. Everything here is skipped where vLLM is not installed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, PretrainedConfig, PreTrainedModel

from llm_sepweight import PartSpec
from splitlearn.backends.vllm.installation import why_unavailable
from splitlearn.checkpoints.load import load_parts, unfilled_part
from splitlearn.model.part import Part
from splitlearn.model.plan import SplitPlan
from splitlearn.runner.select import vllm_runner_for
from splitlearn.runner.vllm_runner import VLLMRunner
from support.tiny_models import ARCHITECTURES as SIZES
from support.tiny_models import N_LAYERS, random_model, save_sepweight, tiny_config

PLAN = SplitPlan(1, 4, N_LAYERS)
MAX_ROWS, MAX_REQUESTS = 96, 12
N_BLOCKS = 64
# the least width of a head that vLLM's attention on CPUs takes is 32
WIDE: dict[str, Any] = {"hidden_size": 128, "head_dim": 32}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = why_unavailable()
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)
            # vLLM and what it imports warn of their own matters
            item.add_marker(pytest.mark.filterwarnings("default"))
            if reason is not None:
                item.add_marker(pytest.mark.skip(reason))


@dataclass(frozen=True)
class Served:
    """A trunk on vLLM.

    Attributes:
        model: the whole model of Hugging Face.
        weights: its sepweight directory.
        bottom, top: the parts around the trunk.
        part: the trunk's own part, filled.
        runner: the trunk on vLLM.
    """

    model: PreTrainedModel
    weights: Path
    bottom: Part
    part: Part
    top: Part
    runner: VLLMRunner

    def rows(self, ids_T: torch.Tensor) -> torch.Tensor:
        """What enters the trunk of a text that begins here."""
        return self.bottom(ids_T, 0, self.bottom.new_cache())

    @torch.inference_mode()
    def expected(self, ids_T: torch.Tensor) -> torch.Tensor:
        """What leaves it, by the whole model."""
        states = self.model(ids_T[None], output_hidden_states=True, use_cache=False).hidden_states
        return torch.as_tensor(states[PLAN.last][0])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Served]]:
    """Makes them, by model type; there may be one at a time."""
    made: list[VLLMRunner] = []

    def make(model_type: str, dtype: str = "float32", n_workers: int = 1, **changes: Any) -> Served:
        for runner in made:
            runner.close()
        made.clear()
        model = random_model(config_of(model_type, **{**WIDE, **changes}))
        weights = save_sepweight(tmp_path_factory.mktemp(model_type), model, dtype=dtype)
        bottom, part, top = load_parts(weights, [PLAN.bottom, PLAN.trunk, PLAN.top])
        runner = runner_of(weights, PLAN.trunk, n_workers)
        made.append(runner)
        return Served(model.to(getattr(torch, dtype)), weights, bottom, part, top, runner)

    yield make
    for runner in made:
        runner.close()


def config_of(model_type: str, **changes: Any) -> PretrainedConfig:
    if model_type != "qwen3_moe":
        return tiny_config(model_type, **changes)
    experts = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "norm_topk_prob": True}
    return CONFIG_MAPPING[model_type](**{**SIZES["llama"], **experts, **changes})


def runner_of(weights: Path, spec: PartSpec, n_workers: int = 1) -> VLLMRunner:
    """As `splitlearn trunk` makes it, with little memory."""
    part = unfilled_part(weights, spec)
    row_bytes = 2 * 2 * WIDE["head_dim"] * len(part.layers) * part.dtype.itemsize
    make = partial(vllm_runner_for, directory=weights, max_rows=MAX_ROWS, max_requests=MAX_REQUESTS)
    return make(part, N_BLOCKS * 32 * row_bytes, n_workers=n_workers)
