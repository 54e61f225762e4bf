"""bitsandbytes in 4 and 8 bits: what the library quantises becomes what it dequantises."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from bitsandbytes import functional
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaForCausalLM

from splitlearn.checkpoints.convert import prepare
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
    tiny_model,
)

FOUR: dict[str, Any] = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
EIGHT: dict[str, Any] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
STATE = f"{UP}.weight.quant_state.bitsandbytes__nf4"


class FourBits:
    """Quantises by the library; remembers what it makes of the result in a dtype."""

    def __init__(
        self, kind: str = "nf4", nested: bool = False, block: int = 64, storage: Any = torch.uint8, dtype: Any = None
    ) -> None:
        self._options = {"quant_type": kind, "compress_statistics": nested, "blocksize": block}
        self._storage, self._dtype = storage, dtype or torch.float32
        self.dequantised: State = {}

    def __call__(self, module: str, weight: torch.Tensor) -> State:
        codes, state = functional.quantize_4bit(weight, quant_storage=self._storage, **self._options)
        made = {f"weight.{name}": tensor for name, tensor in state.as_dict(packed=True).items()}
        state.dtype = self._dtype
        # as one row: where blocks go on from one row to the next, the library's kernel for CPUs reads wrong scales
        state.shape = torch.Size([1, weight.numel()])
        self.dequantised[f"{module}.weight"] = functional.dequantize_4bit(codes, state).reshape(weight.shape)
        return {"weight": codes, **made}


def eight_bits(module: str, weight: torch.Tensor) -> State:
    codes, scales, _ = functional.int8_vectorwise_quant(weight.to(torch.float16))
    return {"weight": codes, "SCB": scales, "weight_format": torch.zeros((), dtype=torch.uint8)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"kind": "fp4"},
        {"nested": True},
        {"kind": "fp4", "nested": True},
        {"block": 256},
        {"storage": torch.bfloat16, "nested": True},
    ],
)
def test_weights_of_four_bits_are_those_of_the_library(
    tmp_path: Path, options: dict[str, Any], dtype: torch.dtype
) -> None:
    library = FourBits(**options, dtype=dtype)
    folder = save_quantized(tmp_path / "bnb", FOUR, library)
    state = converted(folder, str(dtype).removeprefix("torch."))
    assert_same({name: state[name] for name in library.dequantised}, library.dequantised)


def test_weights_of_eight_bits_are_those_of_the_library(tmp_path: Path) -> None:
    made: State = {}

    def quantize(module: str, weight: torch.Tensor) -> State:
        stored = eight_bits(module, weight)
        made[f"{module}.weight"] = functional.int8_vectorwise_dequant(stored["weight"], stored["SCB"])
        return stored

    state = converted(save_quantized(tmp_path / "bnb", EIGHT, quantize))
    assert_same({name: state[name] for name in made}, made)


def test_a_model_that_transformers_saved_becomes_what_it_computes_with(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "plain")
    options = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_use_double_quant=True, bnb_4bit_quant_type="nf4")
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "plain", quantization_config=options).eval()
    module = whole.model.layers[3].mlp.up_proj
    assert isinstance(module, bitsandbytes.nn.Linear4bit)
    whole.save_pretrained(tmp_path / "bnb")
    expected = functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
    assert torch.equal(converted(tmp_path / "bnb")[f"{UP}.weight"], expected)


def test_logits_of_four_bits_are_those_of_the_dequantised_model(tmp_path: Path) -> None:
    library = FourBits(nested=True)
    folder = save_quantized(tmp_path / "bnb", FOUR, library)
    whole = LlamaForCausalLM(tiny_model("llama").config).eval()
    whole.load_state_dict({**tiny_model("llama").state_dict(), **library.dequantised})
    torch.testing.assert_close(logits_after_conversion(folder, tmp_path / "out"), logits_of(whole))


def test_logits_of_eight_bits_are_those_of_the_dequantised_model(tmp_path: Path) -> None:
    folder = save_quantized(tmp_path / "bnb", EIGHT, eight_bits)
    plain = AutoModelForCausalLM.from_pretrained(folder).dequantize().to(torch.float32).eval()
    torch.testing.assert_close(
        logits_after_conversion(folder, tmp_path / "out"), logits_of(plain), atol=1e-3, rtol=1e-3
    )


def says(state: State, **fields: Any) -> None:
    values = json.loads(bytes(state[STATE].tolist()))
    state[STATE] = torch.tensor(list(json.dumps({**values, **fields}).encode()), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda state: state.pop(f"{UP}.weight.absmax"), r"absmax is missing"),
        (lambda state: state.pop(f"{UP}.weight.quant_map"), r"quant_map is missing"),
        (lambda state: state.pop(f"{UP}.weight.nested_absmax"), r"nested_absmax is missing"),
        (lambda state: state.pop(f"{UP}.weight.nested_quant_map"), r"nested_quant_map is missing"),
        (
            lambda state: state.update({f"{UP}.weight.absmax": torch.zeros(95, dtype=torch.uint8)}),
            r"absmax should have the shape \[96\]",
        ),
        (lambda state: state.update({f"{UP}.weight.absmax": torch.zeros(96)}), r"absmax should be uint8"),
        (
            lambda state: state.update({f"{UP}.weight.quant_map": torch.zeros(15)}),
            r"quant_map should have the shape \[16\]",
        ),
        (
            lambda state: state.update({f"{UP}.weight": torch.zeros(100, 1, dtype=torch.uint8)}),
            r"weight does not hold 6144 codes",
        ),
        (lambda state: says(state, shape=[2**40, 2**40]), r"weight does not hold \d+ codes"),
        (lambda state: says(state, shape=[-96, -64]), "lacks shape and blocksize"),
        (lambda state: says(state, shape=[96]), "lacks shape and blocksize"),
        (lambda state: says(state, shape=[64, 96]), r"up_proj.weight should have the shape \[96, 64\]"),
        (lambda state: says(state, blocksize=0), "lacks shape and blocksize"),
        (lambda state: says(state, blocksize=1), r"absmax should have the shape \[6144\]"),
        (lambda state: says(state, nested_blocksize="x"), "nested_blocksize or nested_offset"),
        (lambda state: says(state, nested_offset=None), "nested_blocksize or nested_offset"),
        (lambda state: state.update({STATE: torch.tensor([1, 2], dtype=torch.uint8)}), "is not JSON"),
        (lambda state: state.update({STATE: torch.tensor([51], dtype=torch.uint8)}), "is not a JSON object"),
        (lambda state: state.update({STATE: torch.zeros(5000, dtype=torch.uint8)}), "should be a short text"),
    ],
)
def test_tensors_that_do_not_belong_together_are_named(
    tmp_path: Path, change: Callable[[State], Any], named: str
) -> None:
    folder = save_quantized(tmp_path / "bnb", FOUR, FourBits(nested=True))
    edit(folder, change)
    with pytest.raises(BadCheckpoint, match=named) as refusal:
        prepare(str(folder))
    assert UP in str(refusal.value)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda state: state.pop(f"{UP}.weight"), "SCB is quantised, but .*weight is missing"),
        (lambda state: state.update({f"{UP}.SCB": torch.ones(64)}), r"SCB should have the shape \[96\]"),
        (lambda state: state.update({f"{UP}.weight": torch.ones(96, 64)}), "weight should be int8"),
    ],
)
def test_tensors_of_eight_bits_that_do_not_belong_together_are_named(
    tmp_path: Path, change: Callable[[State], Any], named: str
) -> None:
    folder = save_quantized(tmp_path / "bnb", EIGHT, eight_bits)
    edit(folder, change)
    with pytest.raises(BadCheckpoint, match=named):
        prepare(str(folder))


def test_rows_in_another_order_are_refused_by_name(tmp_path: Path) -> None:
    folder = save_quantized(tmp_path / "bnb", EIGHT, eight_bits)
    edit(folder, lambda state: state[f"{UP}.weight_format"].fill_(1))
    with pytest.raises(UnsupportedModel, match=r"bitsandbytes with .*weight_format 1"):
        prepare(str(folder))


@pytest.mark.parametrize(
    ("fields", "error", "named"),
    [
        ({"load_in_4bit": False}, UnsupportedModel, "bitsandbytes with neither load_in_4bit nor load_in_8bit"),
        ({"load_in_4bit": "yes"}, BadCheckpoint, "load_in_4bit of bitsandbytes"),
    ],
)
def test_options_that_are_not_covered_are_refused_by_name(
    tmp_path: Path, fields: dict[str, Any], error: type[SplitError], named: str
) -> None:
    folder = save_quantized(tmp_path / "bnb", FOUR, FourBits())
    declare(folder, {**FOUR, **fields})
    with pytest.raises(error, match=named):
        prepare(str(folder))


def test_codes_of_another_kind_are_refused_by_name(tmp_path: Path) -> None:
    folder = save_quantized(tmp_path / "bnb", FOUR, FourBits())
    edit(folder, lambda state: state.update({STATE.replace("nf4", "nf3"): state.pop(STATE)}))
    with pytest.raises(UnsupportedModel, match="bitsandbytes with codes of the kind nf3"):
        prepare(str(folder))
