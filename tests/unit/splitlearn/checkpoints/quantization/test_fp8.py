"""FP8 with scales for blocks or for a whole weight becomes what transformers makes of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, FineGrainedFP8Config

from splitlearn.checkpoints.convert import prepare
from splitlearn.checkpoints.quantization.declaration import Declaration
from splitlearn.checkpoints.quantization.fp8 import Fp8
from splitlearn.checkpoints.weight_files import StoredTensor
from splitlearn.errors import BadCheckpoint, SplitError, UnsupportedModel
from support.quantized_checkpoints import (
    UP,
    State,
    assert_same,
    converted,
    declare,
    edit,
    logits_after_conversion,
    logits_of,
    save_quantized,
)

DECLARED: dict[str, Any] = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [32, 32]}
PER_TENSOR: dict[str, Any] = {"quant_method": "fp8", "activation_scheme": "static", "weight_block_size": None}


def in_blocks(module: str, weight: torch.Tensor, block: int = 32) -> State:
    rows, columns = weight.shape
    blocks = weight.reshape(rows // block, block, columns // block, block)
    scales = blocks.abs().amax((1, 3)) / 448
    codes = (blocks / scales[:, None, :, None]).reshape(rows, columns)
    return {"weight": codes.to(torch.float8_e4m3fn), "weight_scale_inv": scales}


def with_one_scale(module: str, weight: torch.Tensor) -> State:
    scale = weight.abs().max() / 448
    codes = {"weight": (weight / scale).to(torch.float8_e4m3fn), "weight_scale_inv": scale}
    return {**codes, "activation_scale": torch.ones(())}


def with_exponents(module: str, weight: torch.Tensor) -> State:
    made = in_blocks(module, weight)
    return {**made, "weight_scale_inv": made["weight_scale_inv"].to(torch.float8_e8m0fnu)}


def with_exponents_in_bytes(module: str, weight: torch.Tensor) -> State:
    made = with_exponents(module, weight)
    return {**made, "weight_scale_inv": made["weight_scale_inv"].view(torch.uint8)}


def dequantised_by_transformers(folder: Path, dtype: torch.dtype) -> Any:
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, quantization_config=FineGrainedFP8Config(dequantize=True)
    )
    # what is not quantised keeps the dtype that it is stored in
    return model.to(dtype).eval()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("declared", "quantize"),
    [
        (DECLARED, in_blocks),
        (PER_TENSOR, with_one_scale),
        ({**DECLARED, "scale_fmt": "ue8m0"}, with_exponents),
        ({**DECLARED, "scale_fmt": "ue8m0"}, with_exponents_in_bytes),
    ],
)
def test_weights_are_those_of_transformers(
    tmp_path: Path, declared: dict[str, Any], quantize: Callable[[str, torch.Tensor], State], dtype: str
) -> None:
    folder = save_quantized(tmp_path / "fp8", declared, quantize)
    assert_same(converted(folder, dtype), dequantised_by_transformers(folder, getattr(torch, dtype)).state_dict())


def test_logits_are_those_of_transformers(tmp_path: Path) -> None:
    folder = save_quantized(tmp_path / "fp8", DECLARED, in_blocks)
    expected = logits_of(dequantised_by_transformers(folder, torch.float32))
    torch.testing.assert_close(logits_after_conversion(folder, tmp_path / "out"), expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_experts_that_are_stored_one_by_one_become_one_tensor_as_in_transformers(tmp_path: Path, dtype: str) -> None:
    folder = save_quantized(tmp_path / "fp8", DECLARED, in_blocks, "mixtral")
    assert_same(converted(folder, dtype), dequantised_by_transformers(folder, getattr(torch, dtype)).state_dict())


def test_the_last_blocks_may_be_smaller(tmp_path: Path) -> None:
    """As in DeepSeek's own kernels: 96 rows in blocks of 64 are one block and a half."""
    scales = torch.tensor([[2.0], [4.0]])

    def quantize(module: str, weight: torch.Tensor) -> State:
        codes = {"weight": weight.to(torch.float8_e4m3fn)}
        grid = torch.ones(-(-weight.shape[0] // 64), -(-weight.shape[1] // 64))
        return {**codes, "weight_scale_inv": scales if module == UP else grid}

    folder = save_quantized(tmp_path / "fp8", {**DECLARED, "weight_block_size": [64, 64]}, quantize)
    weight = converted(folder)[f"{UP}.weight"]
    plain = codes_of(folder)
    assert torch.equal(weight[:64], plain[:64] * 2)
    assert torch.equal(weight[64:], plain[64:] * 4)


def codes_of(folder: Path) -> torch.Tensor:
    found: list[torch.Tensor] = []
    edit(folder, lambda state: found.append(state[f"{UP}.weight"].to(torch.float32)))
    return found[0]


def test_experts_in_one_tensor_have_scales_of_their_own(tmp_path: Path) -> None:
    """A mixture of experts in a file of one tensor for all experts, as transformers saves it."""
    codes = torch.randn(3, 64, 32).to(torch.float8_e4m3fn)
    scales = torch.rand(3, 2, 1) + 0.5
    stored = {
        "experts.gate_up_proj": StoredTensor.of("experts.gate_up_proj", codes),
        "experts.gate_up_proj_scale_inv": StoredTensor.of("experts.gate_up_proj_scale_inv", scales),
    }
    (weight,) = Fp8.read(Declaration("x", "fp8", DECLARED)).weights(stored)
    expected = codes.float() * scales.repeat_interleave(32, 1)
    assert torch.equal(weight.dequantize(torch.float32), expected)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda state: state.pop(f"{UP}.weight_scale_inv"), rf"{UP}\.weight is quantised, but .*scale_inv is missing"),
        (
            lambda state: state.update({f"{UP}.weight_scale_inv": torch.ones(2, 2)}),
            r"weight_scale_inv should have the shape \[3, 2\], and has \[2, 2\]",
        ),
        (
            lambda state: state.update({f"{UP}.weight_scale_inv": torch.ones(3, 2).int()}),
            "weight_scale_inv should be float32 or .* and is int32",
        ),
        (
            lambda state: state.update({f"{UP}.weight": torch.ones(64).to(torch.float8_e4m3fn)}),
            rf"{UP}\.weight should be a matrix",
        ),
        (
            lambda state: state.update({f"{UP}.weight": torch.ones(32, 64).to(torch.float8_e4m3fn)}),
            "shape",
        ),
    ],
)
def test_tensors_that_do_not_belong_together_are_named(
    tmp_path: Path, change: Callable[[State], Any], named: str
) -> None:
    folder = save_quantized(tmp_path / "fp8", DECLARED, in_blocks)
    edit(folder, change)
    with pytest.raises(BadCheckpoint, match=named):
        prepare(str(folder))


@pytest.mark.parametrize(
    ("fields", "error", "named"),
    [
        ({"expert_dtype": "fp4"}, UnsupportedModel, "fp8 with expert_dtype fp4"),
        ({"weight_block_size": [0, 128]}, BadCheckpoint, "weight_block_size of fp8"),
        ({"weight_block_size": "128"}, BadCheckpoint, "weight_block_size of fp8"),
        ({"expert_dtype": 4}, BadCheckpoint, "expert_dtype of fp8"),
    ],
)
def test_options_that_are_not_covered_are_refused_by_name(
    tmp_path: Path, fields: dict[str, Any], error: type[SplitError], named: str
) -> None:
    folder = save_quantized(tmp_path / "fp8", DECLARED, in_blocks)
    declare(folder, {**DECLARED, **fields})
    with pytest.raises(error, match=named):
        prepare(str(folder))
