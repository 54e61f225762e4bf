from pathlib import Path

import torch

from splitlearn.backends.cpu.linear.int4 import quantize_int4
from splitlearn.calibration.layers import linear_layers, run, second_moments
from splitlearn.checkpoints.load import load_part
from support.tiny_models import random_model, save_sepweight, tiny_config

PROMPTS = [torch.arange(5, 25), torch.arange(40, 50)]


def weights_of(folder: Path, model_type: str, **changes: object) -> Path:
    return save_sepweight(folder, random_model(tiny_config(model_type, **changes)))


def test_layers_are_named_by_where_their_weights_are_stored(tmp_path: Path) -> None:
    part = load_part(weights_of(tmp_path, "llama"), "4-5 e")
    found = linear_layers(part, ("end/other",), 32)
    names = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
    names += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    assert [each.place for each in found.layers] == [f"mid.00004/{name}.weight" for name in names] + [
        "end/lm_head.weight"
    ]
    assert not found.left


def test_what_others_are_tied_to_and_what_has_no_whole_groups_is_left(tmp_path: Path) -> None:
    part = load_part(weights_of(tmp_path, "llama", intermediate_size=88), "4-5 e")
    left = linear_layers(part, ("end/lm_head.weight",), 32).left
    assert left == {
        "their inputs are no multiple of 32": ["mid.00004/mlp.down_proj.weight"],
        "others are tied to them": ["end/lm_head.weight"],
    }
    assert len(linear_layers(part, (), 128).layers) == 0


def test_a_weight_that_the_model_s_code_reads_itself_is_left(tmp_path: Path) -> None:
    part = load_part(weights_of(tmp_path, "bloom"), "1-2")
    found = linear_layers(part, (), 32)
    assert [each.name for each in found.layers] == ["self_attention.query_key_value.weight", "mlp.dense_h_to_4h.weight"]
    assert list(found.left) == ["the model's code reads them itself"]


def test_moments_are_those_of_all_rows_that_come_to_a_layer(tmp_path: Path) -> None:
    part = load_part(weights_of(tmp_path, "llama"), "b 0-1")
    layers = {each.name: each for each in linear_layers(part, (), 32).layers}
    down = layers["mlp.down_proj.weight"]
    seen: list[torch.Tensor] = []
    handle = down.module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0].clone()))
    found = second_moments(part, list(layers.values()), PROMPTS)
    handle.remove()
    rows_TK = torch.cat(seen).double()
    assert len(rows_TK) == 30
    torch.testing.assert_close(found[down.place].double(), rows_TK.T @ rows_TK / 30)
    query, key, output = (found[layers[f"self_attn.{name}_proj.weight"].place] for name in "qko")
    assert torch.equal(query, key)
    assert not torch.equal(query, output)


def test_a_layer_that_no_row_comes_to_has_none(tmp_path: Path) -> None:
    part = load_part(weights_of(tmp_path, "llama"), "b 0-1")
    layers = linear_layers(part, (), 32).layers
    assert not any(moments_KK.any() for moments_KK in second_moments(part, layers, []).values())


def test_no_hook_stays(tmp_path: Path) -> None:
    part = load_part(weights_of(tmp_path, "llama"), "b 0-1")
    layers = linear_layers(part, (), 32).layers
    second_moments(part, layers, PROMPTS)
    assert not any(each.module._forward_pre_hooks for each in layers)


def test_a_layer_that_stores_inputs_first_computes_with_its_new_weight(tmp_path: Path) -> None:
    part = load_part(weights_of(tmp_path, "gpt2"), "b 0-1")
    before = next(run(part, PROMPTS))
    for layer in linear_layers(part, (), 32).layers:
        weight = quantize_int4(layer.weight_NK)
        layer.replace_weight(weight)
        assert torch.equal(layer.weight_NK, weight.dequantized())
    after = next(run(part, PROMPTS))
    assert 0 < (after - before).abs().max() < before.abs().max()
