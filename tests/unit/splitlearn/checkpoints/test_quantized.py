"""Codes are never taken for numbers, whatever a checkpoint says or does not say of them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, PreTrainedModel

from llm_sepweight import dump, load
from splitlearn import ModelFactory
from splitlearn.checkpoints.convert import prepare
from splitlearn.checkpoints.load import load_part
from splitlearn.errors import UnsupportedModel
from splitlearn.split_models import split_class
from support import handmade
from support.tiny_models import save_checkpoint

UP = "model.layers.3.mlp.up_proj"
State = dict[str, torch.Tensor]


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_llama: PreTrainedModel) -> Path:
    return save_checkpoint(tmp_path / "checkpoint", tiny_llama)


def edit(checkpoint: Path, change: Callable[[State], None]) -> None:
    state = load_file(checkpoint / "model.safetensors")
    change(state)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, checkpoint / "model.safetensors")


def says(checkpoint: Path, **fields: Any) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, **fields}))


def block_wise_fp8(state: State) -> None:
    state[f"{UP}.weight"] = state[f"{UP}.weight"].to(torch.float8_e4m3fn)
    state[f"{UP}.weight_scale_inv"] = torch.ones(1, 1)


def fp8_without_scales(state: State) -> None:
    state[f"{UP}.weight"] = state[f"{UP}.weight"].to(torch.float8_e5m2)


def int8(state: State) -> None:
    state[f"{UP}.weight"] = state[f"{UP}.weight"].to(torch.int8)
    state[f"{UP}.SCB"] = torch.ones(96)


def four_bits_in_bytes(state: State) -> None:
    state[f"{UP}.weight"] = torch.zeros(96 * 64 // 2, 1, dtype=torch.uint8)
    state[f"{UP}.weight.absmax"] = torch.ones(96)


def gptq(state: State) -> None:
    del state[f"{UP}.weight"]
    state |= {f"{UP}.qweight": torch.zeros(8, 96, dtype=torch.int32), f"{UP}.scales": torch.ones(1, 96)}
    state |= {f"{UP}.qzeros": torch.zeros(1, 12, dtype=torch.int32), f"{UP}.g_idx": torch.zeros(64, dtype=torch.int32)}


def packed(state: State) -> None:
    del state[f"{UP}.weight"]
    state |= {f"{UP}.weight_packed": torch.zeros(96, 8, dtype=torch.int32), f"{UP}.weight_scale": torch.ones(96, 1)}


def half_a_byte(state: State) -> None:
    weight = torch.zeros(96, 32, dtype=torch.uint8)
    state |= {f"{UP}.weight": weight, f"{UP}.weight_scale": torch.ones(96, 4).to(torch.float8_e4m3fn)}
    state |= {f"{UP}.weight_scale_2": torch.ones(())}


def unheard_of(state: State) -> None:
    del state[f"{UP}.weight"]
    state[f"{UP}.trellis"] = torch.zeros(4, 4, dtype=torch.int16)


def numbers_with_scales(state: State) -> None:
    state[f"{UP}.weight_scale"] = torch.ones(96)


def truth_values(state: State) -> None:
    state["model.norm.weight"] = torch.ones(64, dtype=torch.bool)


CODES = pytest.mark.parametrize(
    ("change", "named"),
    [
        (block_wise_fp8, "block-wise fp8.*float8_e4m3fn"),
        (fp8_without_scales, "float8_e5m2"),
        (int8, "bitsandbytes int8.*int8"),
        (four_bits_in_bytes, "bitsandbytes 4-bit.*uint8"),
        (gptq, "GPTQ or AWQ.*int32"),
        (packed, "compressed-tensors.*int32"),
        (half_a_byte, "ModelOpt nvfp4.*uint8"),
        (unheard_of, r"trellis is stored as int16 in place of model\.layers\.3\.mlp\.up_proj\.weight"),
        (numbers_with_scales, "to be read with .*weight_scale"),
        (truth_values, "stored as bool"),
    ],
)


@CODES
@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_codes_are_refused_by_what_is_stored(
    checkpoint: Path, change: Callable[[State], None], named: str, ending: str
) -> None:
    edit(checkpoint, change)
    if ending == "bin":
        torch.save(load_file(checkpoint / "model.safetensors"), checkpoint / "pytorch_model.bin")
        (checkpoint / "model.safetensors").unlink()
    with pytest.raises(UnsupportedModel, match=f"quantised weights.*{named}") as refusal:
        prepare(str(checkpoint))
    assert "\n" not in str(refusal.value)


def test_four_bit_floats_of_safetensors_are_refused(checkpoint: Path) -> None:
    file = checkpoint / "model.safetensors"
    raw = file.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    header[f"{UP}.weight"]["dtype"] = "F4"
    header[f"{UP}.weight"]["shape"] = [96, 64 * 8]
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])
    with pytest.raises(UnsupportedModel, match=r"quantised weights.*float4"):
        prepare(str(checkpoint))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"quantization_config": {"quant_method": "hqq", "bits": 4}}, "hqq, says config.json"),
        ({"compression_config": {"format": "pack-quantized"}}, "pack-quantized"),
        ({"quantization": {"group_size": 64, "bits": 4}}, "4 bits"),
        ({"text_config": {"quantization_config": {"quant_method": "aqlm"}}}, "aqlm"),
        ({"a": {"b": {"quantization_config": {"quant_method": "eetq"}}}}, "eetq"),
    ],
)
def test_a_config_that_says_so_at_any_depth_is_enough(checkpoint: Path, fields: dict[str, Any], named: str) -> None:
    says(checkpoint, **fields)
    with pytest.raises(UnsupportedModel, match=f"quantised weights.*{named}"):
        prepare(str(checkpoint))


@pytest.mark.parametrize(
    ("file", "content", "named"),
    [
        (
            "hf_quant_config.json",
            {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8"}},
            "modelopt FP8",
        ),
        ("quantize_config.json", {"bits": 4, "group_size": 128}, "4 bits, says quantize_config.json"),
    ],
)
def test_a_file_beside_the_config_that_says_so_is_enough(
    checkpoint: Path, file: str, content: dict[str, Any], named: str
) -> None:
    (checkpoint / file).write_text(json.dumps(content))
    with pytest.raises(UnsupportedModel, match=named):
        prepare(str(checkpoint))


def test_plain_weights_are_converted_whatever_lies_beside_them(tmp_path: Path, checkpoint: Path) -> None:
    """A quantised cache is none of the weights' business, and neither are masks that old checkpoints store."""
    quantised_cache = {"quantization": {"quant_algo": None, "kv_cache_quant_algo": "FP8"}}
    (checkpoint / "hf_quant_config.json").write_text(json.dumps(quantised_cache))
    says(checkpoint, quantization_config=None, compression_config={})
    expected = load_file(checkpoint / "model.safetensors")[f"{UP}.weight"]

    def beside(state: State) -> None:
        state["model.layers.3.self_attn.k_proj.k_scale"] = torch.ones(())
        state["model.layers.3.self_attn.mask"] = torch.ones(4, 4, dtype=torch.uint8)

    edit(checkpoint, beside)
    conversion = prepare(str(checkpoint))
    conversion.write(tmp_path / "out")
    assert torch.equal(load(tmp_path / "out", "3-4").mid[3]["mlp.up_proj.weight"], expected)
    assert len(conversion.left_out) == 2


@CODES
def test_codes_are_refused_by_the_factory_and_by_a_class_that_is_named(
    checkpoint: Path, change: Callable[[State], None], named: str
) -> None:
    edit(checkpoint, change)
    refused = pytest.raises(UnsupportedModel, match=f"quantised weights.*{named}")
    with refused:
        ModelFactory.create_split_models("llama", checkpoint)
    state, config = load_file(checkpoint / "model.safetensors"), AutoConfig.from_pretrained(checkpoint)
    split: Any = split_class("llama", "top")
    with refused:
        split.from_pretrained_split(state, config, start_layer=3)
    with refused:
        split(config, start_layer=3).load_split_weights(state)


def test_a_part_is_not_asked_about_the_codes_of_others(checkpoint: Path) -> None:
    edit(checkpoint, int8)
    state, config = load_file(checkpoint / "model.safetensors"), AutoConfig.from_pretrained(checkpoint)
    split: Any = split_class("llama", "bottom")
    assert split.from_pretrained_split(state, config, end_layer=3).end_layer == 3


QKV = "model.layers.2.qkv"


def turned(state: State, dtype: torch.dtype) -> None:
    state[f"{QKV}.weight"] = state[f"{QKV}.weight"].to(dtype)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda state: turned(state, torch.int8), "stored as int8"),
        (lambda state: turned(state, torch.float8_e4m3fn), "stored as float8_e4m3fn"),
        (lambda state: state.update({f"{QKV}.weight_scale": torch.ones(1)}), "to be read with .*weight_scale"),
        (
            lambda state: state.update({f"{QKV}.qweight": state.pop(f"{QKV}.weight").to(torch.int32)}),
            "GPTQ or AWQ.*int32 in place of .*qkv",
        ),
    ],
)
@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_codes_are_refused_for_an_architecture_of_ones_own(
    tmp_path: Path, change: Callable[[State], None], named: str, ending: str
) -> None:
    folder = handmade.save_checkpoint(tmp_path / "own", handmade.whole_model())
    edit(folder, change)
    if ending == "bin":
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    with pytest.raises(UnsupportedModel, match=f"quantised weights.*{named}"):
        ModelFactory.create_split_models("handmade", folder, 1, 3)


@pytest.mark.parametrize("beside", [False, True])
def test_an_architecture_of_ones_own_that_says_it_is_quantised_is_refused(tmp_path: Path, beside: bool) -> None:
    folder = handmade.save_checkpoint(tmp_path / "own", handmade.whole_model())
    if beside:
        (folder / "quantize_config.json").write_text(json.dumps({"bits": 4}))
    else:
        says(folder, quantization_config={"bits": 4})
    with pytest.raises(UnsupportedModel, match=r"quantised weights \(4 bits"):
        ModelFactory.create_split_models("handmade", folder, 1, 3)


@pytest.mark.parametrize("model_type", ["handmade", "llama"])
def test_a_saved_part_whose_tensors_were_made_codes_is_refused(
    tmp_path: Path, checkpoint: Path, model_type: str
) -> None:
    source = checkpoint if model_type == "llama" else handmade.save_checkpoint(tmp_path / "own", handmade.whole_model())
    (trunk,) = ModelFactory.create_split_models(model_type, source, 1, 3, parts=["trunk"])
    trunk.save_split_model(tmp_path / "x.pt")
    state = torch.load(tmp_path / "x.pt")
    torch.save({name: tensor.to(torch.int8) for name, tensor in state.items()}, tmp_path / "x.pt")
    with pytest.raises(UnsupportedModel, match=r"quantised weights.*stored as int8"):
        ModelFactory.load_split_model(tmp_path / "x.pt")


def test_a_directory_that_was_written_with_codes_is_not_loaded(tmp_path: Path, tiny_weights: Path) -> None:
    weights = Path(shutil.copytree(tiny_weights, tmp_path / "weights"))
    codes = {"mlp.up_proj.weight": torch.ones(96, 64, dtype=torch.int8)}
    dump(decider=lambda name: ["mid", "3", name], state_dict=codes, out_path=weights)
    with pytest.raises(UnsupportedModel, match=r"quantised weights.*mid\.3\.mlp\.up_proj\.weight is stored as int8"):
        load_part(weights, "2-4", dtype="float32")
    load_part(weights, "1-3", dtype="float32")
