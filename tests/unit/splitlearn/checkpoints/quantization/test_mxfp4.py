"""gpt-oss with its experts in MXFP4 becomes what transformers makes of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, Mxfp4Config

from splitlearn.checkpoints.convert import prepare
from splitlearn.errors import BadCheckpoint
from support.quantized_checkpoints import (
    State,
    assert_same,
    converted,
    declare,
    edit,
    logits_after_conversion,
    logits_of,
)
from support.tiny_models import ARCHITECTURES, random_model

BLOCKS = "model.layers.3.mlp.experts.gate_up_proj_blocks"
SCALES = "model.layers.3.mlp.experts.gate_up_proj_scales"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Random codes and exponents in place of the experts' weights."""
    few = {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16, "sliding_window": 16}
    config = CONFIG_MAPPING["gpt_oss"](**{**ARCHITECTURES["llama"], **few})
    random_model(config).save_pretrained(tmp_path / "mxfp4")

    def change(state: State) -> None:
        torch.manual_seed(0)
        for key in [key for key in state if key.endswith(("gate_up_proj", "down_proj"))]:
            experts, inputs, outputs = state.pop(key).shape
            blocks = torch.randint(0, 256, (experts, outputs, inputs // 32, 16))
            state[f"{key}_blocks"] = blocks.to(torch.uint8)
            state[f"{key}_scales"] = torch.randint(118, 125, blocks.shape[:-1]).to(torch.uint8)

    edit(tmp_path / "mxfp4", change)
    declare(tmp_path / "mxfp4", {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]})
    return tmp_path / "mxfp4"


def dequantised_by_transformers(folder: Path, dtype: torch.dtype) -> Any:
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, quantization_config=Mxfp4Config(dequantize=True), attn_implementation="eager"
    )
    return model.to(dtype).eval()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_are_those_of_transformers(folder: Path, dtype: str) -> None:
    assert_same(converted(folder, dtype), dequantised_by_transformers(folder, getattr(torch, dtype)).state_dict())


def test_logits_are_those_of_transformers(folder: Path) -> None:
    expected = logits_of(dequantised_by_transformers(folder, torch.float32))
    torch.testing.assert_close(logits_after_conversion(folder, folder.parent / "out"), expected)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda state: state.pop(SCALES), f"{BLOCKS} is quantised, but {SCALES} is missing"),
        (
            lambda state: state.update({SCALES: torch.zeros(4, 192, 1, dtype=torch.uint8)}),
            rf"{SCALES} should have the shape \[4, 192, 2\]",
        ),
        (lambda state: state.update({SCALES: torch.zeros(4, 192, 2)}), f"{SCALES} should be uint8"),
        (
            lambda state: state.update({BLOCKS: torch.zeros(4, 192, 2, 8, dtype=torch.uint8)}),
            f"{BLOCKS} should have the shape .* 16",
        ),
        (lambda state: state.update({BLOCKS: torch.zeros(4, 192, 2, 16)}), f"{BLOCKS} should be uint8"),
        (
            lambda state: state.update(
                {
                    BLOCKS: torch.zeros(4, 190, 2, 16, dtype=torch.uint8),
                    SCALES: torch.zeros(4, 190, 2, dtype=torch.uint8),
                }
            ),
            r"gate_up_proj should have the shape \[4, 64, 192\], found \[4, 64, 190\]",
        ),
    ],
)
def test_tensors_that_do_not_belong_together_are_named(
    folder: Path, change: Callable[[State], Any], named: str
) -> None:
    edit(folder, change)
    with pytest.raises(BadCheckpoint, match=named):
        prepare(str(folder))
