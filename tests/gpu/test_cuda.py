"""The cut on a CUDA device: `pytest -m gpu`, on a machine that has one."""

from pathlib import Path

import pytest
import torch

from splitlearn.engine import DeviceThread, Engine
from splitlearn.plan import SplitPlan
from support.sessions import Chain, Whole, decode, load_parts, prompt
from support.tiny_models import N_LAYERS, random_model, save_sepweight, tiny_config

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("model_type", ["gpt2", "gemma2", "llama", "mixtral", "falcon"])
def test_the_cut_on_cuda_equals_the_whole_model_there(tmp_path: Path, model_type: str) -> None:
    model = random_model(tiny_config(model_type))
    parts = load_parts(save_sepweight(tmp_path, model), SplitPlan(1, 3, N_LAYERS), device="cuda")
    split, whole = Chain(parts), Whole(model.to("cuda"))
    ids = prompt(64).to("cuda")
    tokens, logits = decode(split, split.append(ids), 32)
    expected_tokens, expected_logits = decode(whole, whole.append(ids), 32)
    assert tokens == expected_tokens
    torch.testing.assert_close(torch.stack(logits), torch.stack(expected_logits), atol=1e-4, rtol=0)


async def test_an_engine_takes_rows_from_the_host_and_gives_them_back_there(tmp_path: Path) -> None:
    weights = save_sepweight(tmp_path, random_model(tiny_config("llama")))
    _, trunk, _ = load_parts(weights, SplitPlan(1, 4, N_LAYERS), device="cuda")
    with DeviceThread() as thread:
        engine = Engine(trunk, thread)
        step = await engine.step(engine.open(), 0, torch.randn(5, 64))
    assert step.output.device.type == "cpu"
    assert bool(torch.isfinite(step.output).all())
