"""AWQ in both packings becomes the weights that its description says."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from splitlearn.checkpoints.convert import prepare
from splitlearn.errors import BadCheckpoint, SplitError, UnsupportedModel
from support.packed_codes import RandomCodes
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
    tiny_model,
)

DECLARED: dict[str, Any] = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}
GEMV = {**DECLARED, "version": "gemv"}
# what gemv's kernel reads of a row of zeros, by the size of a group
WORDS = {16: 1, 32: 4, 64: 2, 96: 1}


class Packed:
    """Replaces weights by random codes; remembers the weights that they stand for."""

    def __init__(self, version: str, group: int = 32) -> None:
        self._version, self._group = version, group
        self.weights: State = {}

    def __call__(self, module: str, weight: torch.Tensor) -> State:
        outputs, inputs = weight.shape
        group = inputs if self._group == -1 else self._group
        codes = RandomCodes(outputs, inputs, group, 4)
        self.weights[f"{module}.weight"] = codes.weight_OI
        return codes.awq_gemm() if self._version == "gemm" else codes.awq_gemv(WORDS[group])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("group", [16, 32, -1])
@pytest.mark.parametrize("version", ["gemm", "gemv"])
def test_weights_are_those_of_the_description(tmp_path: Path, version: str, group: int, dtype: torch.dtype) -> None:
    packed = Packed(version, group)
    folder = save_quantized(tmp_path / "awq", {**DECLARED, "version": version, "group_size": group}, packed)
    state = converted(folder, str(dtype).removeprefix("torch."))
    expected = {name: weight.to(dtype) for name, weight in packed.weights.items()}
    assert_same({name: state[name] for name in expected}, expected)


@pytest.mark.parametrize("version", ["gemm", "gemv"])
def test_logits_are_those_of_the_dequantised_model(tmp_path: Path, version: str) -> None:
    packed = Packed(version)
    folder = save_quantized(tmp_path / "awq", {**DECLARED, "version": version}, packed)
    whole = LlamaForCausalLM(tiny_model("llama").config).eval()
    whole.load_state_dict({**tiny_model("llama").state_dict(), **packed.weights})
    torch.testing.assert_close(logits_after_conversion(folder, tmp_path / "out"), logits_of(whole))


def test_rows_that_begin_inside_an_integer_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows at a time, where an integer of gemm's packing holds eight."""
    folder = save_quantized(tmp_path / "awq", DECLARED, Packed("gemm"))
    at_once = converted(folder)
    monkeypatch.setattr("splitlearn.checkpoints.quantization.weight.BLOCK_VALUES", 1)
    assert_same(converted(folder), at_once)


@pytest.mark.parametrize(
    ("declared", "change", "named"),
    [
        (DECLARED, lambda state: state.pop(f"{UP}.scales"), "qweight is quantised, but .*scales is missing"),
        (DECLARED, lambda state: state.pop(f"{UP}.qzeros"), "qweight is quantised, but .*qzeros is missing"),
        (
            DECLARED,
            lambda state: state.update({f"{UP}.scales": torch.ones(4, 96)}),
            r"scales should have the shape \[2, 96\]",
        ),
        (
            DECLARED,
            lambda state: state.update({f"{UP}.qzeros": torch.zeros(2, 96).int()}),
            r"qzeros should have the shape \[2, 12\]",
        ),
        (DECLARED, lambda state: state.update({f"{UP}.qweight": torch.zeros(64, 12)}), "qweight should be int32"),
        (
            DECLARED,
            lambda state: state.update({f"{UP}.qweight": torch.zeros(40, 12).int()}),
            "has 40 inputs, which groups of 32 do not divide",
        ),
        (GEMV, lambda state: state, r"scales should have the shape"),
    ],
)
def test_tensors_that_do_not_belong_together_are_named(
    tmp_path: Path, declared: dict[str, Any], change: Callable[[State], Any], named: str
) -> None:
    folder = save_quantized(tmp_path / "awq", DECLARED, Packed("gemm"))
    declare(folder, declared)
    edit(folder, change)
    with pytest.raises(BadCheckpoint, match=named):
        prepare(str(folder))


@pytest.mark.parametrize(
    ("fields", "error", "named"),
    [
        ({"bits": 8}, UnsupportedModel, "awq with 8 bits"),
        ({"zero_point": False}, UnsupportedModel, "awq with zero_point false"),
        ({"version": "gemv_fast"}, UnsupportedModel, "awq with version gemv_fast"),
        ({"version": "marlin"}, UnsupportedModel, "awq with version marlin"),
        ({"backend": "llm-awq"}, UnsupportedModel, "awq with backend llm-awq"),
        ({"group_size": -2}, UnsupportedModel, "awq with group_size -2"),
        ({"version": 4}, BadCheckpoint, "version of awq"),
    ],
)
def test_options_that_are_not_covered_are_refused_by_name(
    tmp_path: Path, fields: dict[str, Any], error: type[SplitError], named: str
) -> None:
    folder = save_quantized(tmp_path / "awq", DECLARED, Packed("gemm"))
    declare(folder, {**DECLARED, **fields})
    with pytest.raises(error, match=named):
        prepare(str(folder))
