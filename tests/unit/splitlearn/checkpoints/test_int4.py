"""Which weights of 4 bits a conversion keeps, and what it says of the others."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind

from llm_sepweight import Manifest, load, verify
from splitlearn.checkpoints.convert import prepare
from splitlearn.checkpoints.costs import read_stored
from splitlearn.checkpoints.folder import find_checkpoint
from splitlearn.checkpoints.int4 import packed_weights
from splitlearn.checkpoints.load import load_part
from splitlearn.checkpoints.opening import open_source
from splitlearn.checkpoints.plan import plan_tensors
from splitlearn.checkpoints.reader import read_checkpoint
from splitlearn.errors import BadCheckpoint
from splitlearn.model.layout import build_on_meta, config_from_dict, inspect_model
from support.gguf_files import random_blocks, shapes, write_gguf
from support.int4_checkpoints import GPTQ, Packed, convert, gptq
from support.packed_codes import RandomCodes
from support.quantized_checkpoints import UP, State, edit, save_quantized


def test_the_manifest_tells_what_the_files_hold(tmp_path: Path) -> None:
    source = gptq(tmp_path / "checkpoint")
    plain = prepare(str(source), dtype="bfloat16").write(tmp_path / "plain")
    out = convert(source, tmp_path / "out")
    kept = Manifest.read(out)
    assert kept.dequantized == {name: plain.files[name].size for name in kept.files if name.startswith("mid")}
    assert kept.files["mid.00000"].size < 0.5 * plain.files["mid.00000"].size
    assert kept.files["end"] == plain.files["end"]
    assert kept.digest != plain.digest
    assert read_stored(out).sections == read_stored(tmp_path / "plain").sections
    verify(out)


def test_all_zeros_in_the_middle_are_not_stored(tmp_path: Path) -> None:
    out = convert(gptq(tmp_path / "checkpoint", symmetric=True), tmp_path / "out")
    assert not [name for name in load(out, "0-1").mid[0] if name.endswith("int4_zeros")]


def notes(source: Path, **options: Any) -> list[str]:
    return prepare(str(source), keep_int4=True, **options).notes()


def test_inputs_that_act_order_deals_to_groups_are_dequantised(tmp_path: Path) -> None:
    source = gptq(tmp_path / "checkpoint", act_order=True)
    (said,) = notes(source)
    assert said.startswith("dequantised 35 weights of 4 bits, as act-order deals inputs to groups: model.layers.*.self")
    prepare(str(source), dtype="bfloat16").write(tmp_path / "plain")
    assert Manifest.read(convert(source, tmp_path / "out")).digest == Manifest.read(tmp_path / "plain").digest


def test_small_groups_are_dequantised(tmp_path: Path) -> None:
    packed = Packed(RandomCodes.gptq, 16)
    source = save_quantized(tmp_path / "checkpoint", {**GPTQ, "group_size": 16}, packed)
    assert notes(source)[0].startswith("dequantised 35 weights of 4 bits, as groups of 16 inputs are no multiple of 32")


@pytest.mark.parametrize("scale", [1 + 2**-12, 2.0**-26, 2.0**13, float("nan"), float("inf")])
def test_scales_that_float16_does_not_hold_make_numbers_of_a_weight(scale: float, tmp_path: Path) -> None:
    def change(state: State) -> None:
        state[f"{UP}.scales"] = state[f"{UP}.scales"].float()
        state[f"{UP}.scales"][0, 3] = scale

    source = gptq(tmp_path / "checkpoint")
    edit(source, change)
    assert notes(source, dtype="bfloat16") == [
        "keeps 34 weights in 4 bits",
        f"dequantised 1 weight of 4 bits, as float16 does not hold the scales: {UP}.weight",
    ]
    part = load_part(convert(source, tmp_path / "out"), "3-4")
    prepare(str(source), dtype="bfloat16").write(tmp_path / "plain")
    plain, name = load_part(tmp_path / "plain", "3-4"), "model.model.layers.0.mlp.up_proj.weight"
    torch.testing.assert_close(part.get_parameter(name), plain.get_parameter(name), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("halves", "reason"),
    [
        ((0.0, 0.01), "no zero stands for a minimum"),
        ((0.0, 0.0), "no zero stands for a minimum"),
        ((2.0**-24, 4000.0), "no zero stands for a minimum"),
        ((0.01, float("inf")), "float16 does not hold the scales"),
    ],
)
def test_minima_that_no_zero_stands_for_make_numbers_of_a_weight(
    halves: tuple[float, float], reason: str, tmp_path: Path
) -> None:
    kind, name = Kind.Q4_1, "blk.0.ffn_up.weight"
    source = write_gguf(tmp_path / "tiny.gguf", kind=kind)
    blocks = random_blocks(kind, 512, 256, seed=[*shapes("llama")].index(name))
    changed = blocks.copy()
    changed[3, 20:24] = np.array(halves, np.float16).view(np.uint8)
    content = source.read_bytes()
    assert content.count(blocks.tobytes()) == 1
    source.write_bytes(content.replace(blocks.tobytes(), changed.tobytes()))
    assert notes(source) == [
        "keeps 21 weights in 4 bits",
        "dequantised 1 weight of 4 bits, as they are of no linear layer: model.embed_tokens.weight",
        f"dequantised 1 weight of 4 bits, as {reason}: model.layers.0.mlp.up_proj.weight",
    ]


def test_embeddings_and_a_head_that_is_tied_to_them_are_dequantised(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "tiny.gguf", kind=Kind.Q4_0, tied=True)
    assert notes(source) == [
        "keeps 21 weights in 4 bits",
        "dequantised 1 weight of 4 bits, as they are of no linear layer: model.embed_tokens.weight",
    ]


def test_a_linear_layer_that_others_are_tied_to_is_dequantised(tmp_path: Path) -> None:
    checkpoint = find_checkpoint(str(gptq(tmp_path / "checkpoint")))
    opened = open_source(str(checkpoint), None, None)
    model = build_on_meta(config_from_dict(opened.config))
    plan = plan_tensors(model, inspect_model(model), read_checkpoint(opened.tensors(), model))
    kept, dequantized = replace(plan, tied={"lm_head.weight": f"{UP}.weight"}).keep_int4()
    assert (len(kept), dequantized) == (34, {"they are tied": [f"{UP}.weight"]})


def test_experts_that_the_model_holds_in_one_tensor_are_dequantised(tmp_path: Path) -> None:
    packed = Packed(RandomCodes.gptq)
    source = save_quantized(tmp_path / "checkpoint", GPTQ, packed, "mixtral")
    found = notes(source)
    assert found[0] == "keeps 20 weights in 4 bits"
    assert found[1].startswith("dequantised 10 weights of 4 bits, as the model arranges them in another way")
    out = convert(source, tmp_path / "out", "float32")
    prepare(str(source), dtype="float32").write(tmp_path / "plain")
    kept, plain = load_part(out, "f").state_dict(), load_part(tmp_path / "plain", "f").state_dict()
    assert all(torch.equal(tensor, plain[name]) for name, tensor in kept.items())


def test_a_checkpoint_without_weights_of_4_bits_is_said_to_have_none(tmp_path: Path) -> None:
    assert notes(write_gguf(tmp_path / "tiny.gguf")) == [
        "keeps nothing in 4 bits: the checkpoint has no weights of 4 bits in groups of inputs"
    ]


def stored(**changes: torch.Tensor | None) -> State:
    """A weight [4, 64] in groups of 32."""
    whole = {
        "w.int4_levels": torch.zeros(4, 32, dtype=torch.uint8),
        "w.int4_scales": torch.ones(4, 2).half(),
        "w.int4_zeros": torch.ones(4, 2).half(),
    }
    given = {name.replace("_of_", "."): tensor for name, tensor in changes.items()}
    return {name: tensor for name, tensor in {**whole, **given}.items() if tensor is not None}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"w_of_int4_scales": None}, r"w\.int4_levels has no int4_scales"),
        ({"w_of_int4_levels": None}, r"w\.int4_(scales|zeros) has no int4_levels"),
        ({"w": torch.ones(4, 64)}, "w is stored both as numbers and in 4 bits"),
        ({"w_of_int4_levels": torch.zeros(4, 32)}, r"a matrix of bytes, and is float32 \[4, 32\]"),
        ({"w_of_int4_levels": torch.zeros(32, dtype=torch.uint8)}, "int4_levels should be a matrix"),
        ({"w_of_int4_levels": torch.zeros(0, 32, dtype=torch.uint8)}, "int4_levels should be a matrix"),
        ({"w_of_int4_levels": torch.zeros(4, 31, dtype=torch.uint8)}, "whole groups of 62 inputs"),
        ({"w_of_int4_scales": torch.ones(4, 2)}, r"int4_scales should be float16 .*, and is float32 \[4, 2\]"),
        ({"w_of_int4_scales": torch.ones(5, 2).half()}, "int4_scales should be float16 for 4 outputs"),
        ({"w_of_int4_scales": torch.ones(4, 4).half()}, "whole groups of 64 inputs"),
        ({"w_of_int4_scales": torch.ones(4, 0).half()}, "whole groups of 64 inputs"),
        ({"w_of_int4_minima": torch.ones(4, 2).half()}, "int4_levels has both zeros and minima"),
        (
            {"w_of_int4_zeros": None, "w_of_int4_minima": torch.ones(4, 2)},
            r"int4_minima should be float16 \[4, 2\], and is float32",
        ),
        ({"w_of_int4_zeros": torch.ones(4, 1).half()}, r"int4_zeros should be float16 \[4, 2\]"),
        ({"w_of_int4_zeros": torch.ones(4, 2).int()}, r"int4_zeros should be .*, and is int32"),
    ],
)
def test_tensors_that_do_not_belong_together_are_named(changes: dict[str, Any], named: str) -> None:
    assert packed_weights(stored())["w"].shape == (4, 64)
    with pytest.raises(BadCheckpoint, match=named):
        packed_weights(stored(**changes))


def test_a_weight_whose_numbers_another_section_stores_may_have_a_copy_in_4_bits() -> None:
    given = stored(w=torch.ones(4, 64))
    assert packed_weights(given, tied={"w"})["w"].shape == (4, 64)
    with pytest.raises(BadCheckpoint, match="w is stored both"):
        packed_weights(given, tied={"v"})
