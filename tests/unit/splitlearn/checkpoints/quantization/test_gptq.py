"""GPTQ becomes the weights that its description says, whatever the groups' order and the version of zeros."""

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

DECLARED: dict[str, Any] = {"quant_method": "gptq", "bits": 4, "group_size": 16, "desc_act": False, "sym": False}


class Packed:
    """Replaces weights by random codes; remembers the weights that they stand for."""

    def __init__(self, bits: int = 4, group: int = 16, version: int = 1, act_order: bool = False) -> None:
        self._bits, self._group, self._version, self._act_order = bits, group, version, act_order
        self.weights: State = {}

    def __call__(self, module: str, weight: torch.Tensor) -> State:
        outputs, inputs = weight.shape
        group = inputs if self._group == -1 else self._group
        order = torch.randperm(inputs) // group if self._act_order else None
        codes = RandomCodes(outputs, inputs, group, self._bits, order)
        self.weights[f"{module}.weight"] = codes.weight_OI
        return codes.gptq(self._version) | ({} if order is None else {"g_idx": order.to(torch.int32)})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_weights_are_those_of_the_description(
    tmp_path: Path, bits: int, version: int, act_order: bool, dtype: torch.dtype
) -> None:
    packed = Packed(bits, 16, version, act_order)
    section = {**DECLARED, "bits": bits, "desc_act": act_order}
    folder = save_quantized(
        tmp_path / "gptq", section if version == 1 else {**section, "checkpoint_format": "gptq_v2"}, packed
    )
    state = converted(folder, str(dtype).removeprefix("torch."))
    # in double precision a product of code and scale is exact, and is rounded once, as it is in float32
    expected = {name: weight.to(dtype) for name, weight in packed.weights.items()}
    assert_same({name: state[name] for name in expected}, expected)


def test_a_group_may_be_all_inputs(tmp_path: Path) -> None:
    packed = Packed(group=-1)
    folder = save_quantized(tmp_path / "gptq", {**DECLARED, "group_size": -1}, packed)
    assert torch.equal(converted(folder)[f"{UP}.weight"], packed.weights[f"{UP}.weight"].float())


def test_logits_are_those_of_the_dequantised_model(tmp_path: Path) -> None:
    packed = Packed(act_order=True)
    folder = save_quantized(tmp_path / "gptq", DECLARED, packed)
    whole = LlamaForCausalLM(tiny_model("llama").config).eval()
    whole.load_state_dict({**tiny_model("llama").state_dict(), **packed.weights})
    torch.testing.assert_close(logits_after_conversion(folder, tmp_path / "out"), logits_of(whole))


def test_weights_that_are_not_packed_stay_as_they_are(tmp_path: Path) -> None:
    """The head and the embeddings; a pattern for them says that they are none of GPTQ's."""
    folder = save_quantized(tmp_path / "gptq", {**DECLARED, "dynamic": {"-:.*lm_head.*": {}}}, Packed())
    state = converted(folder)
    for name in ("lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"):
        assert torch.equal(state[name], tiny_model("llama").state_dict()[name])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda state: state.pop(f"{UP}.scales"), "qweight is quantised, but .*scales is missing"),
        (lambda state: state.pop(f"{UP}.qzeros"), "qweight is quantised, but .*qzeros is missing"),
        (lambda state: state.update({f"{UP}.scales": torch.ones(4, 64)}), r"scales should have the shape \[4, 96\]"),
        (
            lambda state: state.update({f"{UP}.qzeros": torch.zeros(4, 96).int()}),
            r"qzeros should have the shape \[4, 12\]",
        ),
        (lambda state: state.update({f"{UP}.qweight": torch.zeros(8, 96)}), "qweight should be int32"),
        (lambda state: state.update({f"{UP}.qweight": torch.zeros(8).int()}), "qweight should be a matrix"),
        (lambda state: state.update({f"{UP}.qweight": torch.zeros(7, 96).int()}), "has 56 inputs, which groups of 16"),
        (lambda state: state.update({f"{UP}.g_idx": torch.zeros(96).int()}), r"g_idx should have the shape \[64\]"),
        (lambda state: state.update({f"{UP}.g_idx": torch.zeros(64)}), "g_idx should be int32"),
        (lambda state: state.update({f"{UP}.weight": torch.ones(96, 64)}), "stored both as codes .* and as numbers"),
    ],
)
def test_tensors_that_do_not_belong_together_are_named(
    tmp_path: Path, change: Callable[[State], Any], named: str
) -> None:
    folder = save_quantized(tmp_path / "gptq", DECLARED, Packed())
    edit(folder, change)
    with pytest.raises(BadCheckpoint, match=named) as refusal:
        prepare(str(folder))
    assert UP in str(refusal.value)


@pytest.mark.parametrize("group", [-1, 4, 2**30])
def test_an_input_in_a_group_that_is_not_there_is_refused_before_anything_is_left(tmp_path: Path, group: int) -> None:
    folder = save_quantized(tmp_path / "gptq", DECLARED, Packed(act_order=True))
    edit(folder, lambda state: state[f"{UP}.g_idx"].__setitem__(5, group))
    with pytest.raises(BadCheckpoint, match=rf"{UP}\.g_idx names groups from .*{group}.*, of 4"):
        prepare(str(folder)).write(tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("fields", "error", "named"),
    [
        ({"bits": 3}, UnsupportedModel, "gptq with 3 bits"),
        ({"is_marlin_format": True}, UnsupportedModel, "gptq with Marlin's packing"),
        ({"checkpoint_format": "marlin"}, UnsupportedModel, "gptq with checkpoint_format marlin"),
        ({"pack_dtype": "int16"}, UnsupportedModel, "gptq with pack_dtype int16"),
        ({"dynamic": {"+:.*up.*": {"bits": 8}}}, UnsupportedModel, "gptq with dynamic options"),
        ({"group_size": 0}, UnsupportedModel, "gptq with group_size 0"),
        ({"bits": None}, BadCheckpoint, "bits of gptq in config.json should be a whole number"),
        ({"desc_act": True, "group_size": "all"}, BadCheckpoint, "group_size of gptq"),
    ],
)
def test_options_that_are_not_covered_are_refused_by_name(
    tmp_path: Path, fields: dict[str, Any], error: type[SplitError], named: str
) -> None:
    folder = save_quantized(tmp_path / "gptq", DECLARED, Packed())
    declare(folder, {**DECLARED, **fields})
    with pytest.raises(error, match=named):
        prepare(str(folder))
