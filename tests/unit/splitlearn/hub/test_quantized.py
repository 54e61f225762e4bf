"""Named models with quantised weights: codes and scales are fetched with the section that is made of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes import functional

from llm_sepweight import PartSpec
from splitlearn.checkpoints.convert import prepare
from splitlearn.errors import UnsupportedModel
from splitlearn.hub.listing import Hub
from splitlearn.hub.names import ModelName
from splitlearn.hub.opening import open_named
from splitlearn.hub.store import Cache
from support.loopback_hub import LoopbackHub
from support.packed_codes import RandomCodes
from support.quantized_checkpoints import State, save_quantized

FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [32, 32]}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 16, "desc_act": True, "sym": False}


def in_blocks(module: str, weight_OI: torch.Tensor) -> State:
    scales = torch.rand(weight_OI.shape[0] // 32, weight_OI.shape[1] // 32)
    return {"weight": weight_OI.to(torch.float8_e4m3fn), "weight_scale_inv": scales}


def packed(module: str, weight_OI: torch.Tensor) -> State:
    outputs, inputs = weight_OI.shape
    order = torch.randperm(inputs) // 16
    return RandomCodes(outputs, inputs, 16, 4, order).gptq(1) | {"g_idx": order.to(torch.int32)}


@pytest.mark.parametrize(
    ("declared", "quantize", "model_type"),
    [(FP8, in_blocks, "llama"), (FP8, in_blocks, "mixtral"), (GPTQ, packed, "llama")],
)
def test_they_are_converted_as_from_a_folder_and_each_byte_is_fetched_once(
    served: LoopbackHub,
    hub: Hub,
    cache: Cache,
    tmp_path: Path,
    declared: dict[str, Any],
    quantize: Callable[[str, torch.Tensor], State],
    model_type: str,
) -> None:
    folder = save_quantized(tmp_path / "tiny", declared, quantize, model_type)
    prepare(str(folder)).write(tmp_path / "converted")
    served.add("org/tiny", folder)
    model = open_named(ModelName("org/tiny"), cache, hub=hub, piece_bytes=10_000)
    model.fetch([PartSpec.parse("1-4")])
    trunk = {path.name: path.read_bytes() for path in model.directory.glob("mid.*.safetensors")}
    assert len(trunk) == 3
    model.fetch([PartSpec.parse("b 0-1"), PartSpec.parse("4-5 e")])
    assert {path.name: path.read_bytes() for path in model.directory.glob("*.safetensors")} == {
        path.name: path.read_bytes() for path in (tmp_path / "converted").glob("*.safetensors")
    }
    assert served.count_tensor_bytes() == sum(map(len, served.tensor_bytes().values()))


def test_a_format_whose_tensors_say_how_they_are_stored_is_refused_with_the_command_that_takes_it(
    served: LoopbackHub, hub: Hub, cache: Cache, tmp_path: Path
) -> None:
    def four_bits(module: str, weight_OI: torch.Tensor) -> State:
        codes, state = functional.quantize_4bit(weight_OI, quant_type="nf4")
        return {"weight": codes} | {f"weight.{name}": each for name, each in state.as_dict(packed=True).items()}

    declared = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    served.add("org/tiny", save_quantized(tmp_path / "tiny", declared, four_bits))
    with pytest.raises(UnsupportedModel, match=r"quant_state.*splitlearn convert org/tiny"):
        open_named(ModelName("org/tiny"), cache, hub=hub)
    assert served.count_tensor_bytes() == 0
