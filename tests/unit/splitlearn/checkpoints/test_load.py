import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from llm_sepweight import MissingFileError, extract
from splitlearn.checkpoints.load import load_part, load_parts, resolve_device, resolve_dtype
from splitlearn.errors import BadCheckpoint, BadDevice, BadPlan
from support.tiny_models import random_model, save_sepweight, tiny_config


def test_a_part_loads_from_just_its_own_files(tmp_path: Path, tiny_weights: Path) -> None:
    extract(tiny_weights, tmp_path / "worker", "1-4")
    part = load_part(tmp_path / "worker", "1-4")
    assert not list((tmp_path / "worker").glob("begin*"))
    hidden_TD = torch.randn(3, 64)
    expected = load_part(tiny_weights, "1-4")(hidden_TD, 0, part.new_cache())
    assert torch.equal(part(hidden_TD, 0, part.new_cache()), expected)


def test_a_part_holds_only_its_own_weights(tiny_weights: Path, tiny_llama: PreTrainedModel) -> None:
    part = load_part(tiny_weights, "2-4")
    held = sum(p.numel() for p in part.parameters())
    assert held == sum(p.numel() for layer in tiny_llama.model.layers[2:4] for p in layer.parameters())


def test_nothing_is_left_on_the_meta_device(tiny_weights: Path) -> None:
    part = load_part(tiny_weights, "4-5 e")
    assert not [name for name, t in (*part.named_parameters(), *part.named_buffers()) if t.is_meta]


def test_weights_stay_mapped_when_the_dtype_fits(tiny_weights: Path) -> None:
    part = load_part(tiny_weights, "2-3")
    weight = part.get_parameter("model.model.layers.0.mlp.up_proj.weight")
    maps = Path("/proc/self/maps").read_text().splitlines()
    inside = [
        line.split()[-1]
        for line in maps
        if int(line.split("-")[0], 16) <= weight.data_ptr() < int(line.split("-")[1].split()[0], 16)
    ]
    assert inside == [str(tiny_weights / "mid.00002.safetensors")]


def test_another_dtype_is_a_copy_in_that_dtype(tiny_weights: Path) -> None:
    part = load_part(tiny_weights, "2-3", dtype="bfloat16")
    assert part.dtype == torch.bfloat16
    assert part(torch.randn(2, 64, dtype=torch.bfloat16), 0, part.new_cache()).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_embedding_tied_to_the_head_is_in_memory_once_for_bottom_and_top(tmp_path: Path, dtype: str) -> None:
    weights = save_sepweight(tmp_path, random_model(tiny_config("qwen2", tie_word_embeddings=True)))
    bottom, top = load_parts(weights, ["b 0-1", "4-5 e"], dtype=dtype)
    embedding = bottom.get_parameter("model.model.embed_tokens.weight")
    assert top.get_parameter("model.lm_head.weight").data_ptr() == embedding.data_ptr()


def test_parts_that_are_loaded_together_equal_those_loaded_alone(tiny_weights: Path) -> None:
    specs = ["b 0-1", "1-4", "4-5 e"]
    for part, spec in zip(load_parts(tiny_weights, specs), specs, strict=True):
        alone = dict(load_part(tiny_weights, spec).named_parameters())
        assert alone.keys() == dict(part.named_parameters()).keys()
        assert all(torch.equal(tensor, alone[name]) for name, tensor in part.named_parameters())


def test_tied_embedding_and_head_are_one_tensor(tmp_path: Path) -> None:
    weights = save_sepweight(tmp_path, random_model(tiny_config("qwen2", tie_word_embeddings=True)))
    part = load_part(weights, "f", dtype="bfloat16")
    assert (
        part.get_parameter("model.lm_head.weight").data_ptr()
        == part.get_parameter("model.model.embed_tokens.weight").data_ptr()
    )


def test_a_file_of_another_part_that_is_missing_is_named(tmp_path: Path, tiny_weights: Path) -> None:
    extract(tiny_weights, tmp_path / "worker", "1-3")
    with pytest.raises(MissingFileError, match=r"mid\.00003"):
        load_part(tmp_path / "worker", "1-4")


def test_a_tensor_missing_in_a_file_is_named(tmp_path: Path) -> None:
    weights = save_sepweight(tmp_path, random_model(tiny_config("llama")))
    file = weights / "mid.00002.safetensors"
    state = load_file(file)
    del state["mlp.up_proj.weight"]
    save_file(state, file)
    manifest = json.loads((weights / "manifest.json").read_text())
    manifest["files"]["mid.00002"]["size"] = file.stat().st_size
    del manifest["sha256"]
    (weights / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BadCheckpoint, match=r"mid\.2 file lacks the tensor mlp\.up_proj\.weight"):
        load_part(weights, "1-4")


def test_layers_beyond_the_model_are_refused_with_the_number_there_are(tiny_weights: Path) -> None:
    with pytest.raises(Exception, match="5 layers"):
        load_part(tiny_weights, "3-9")


def test_two_ranges_are_no_part(tiny_weights: Path) -> None:
    with pytest.raises(BadPlan, match="one contiguous range"):
        load_part(tiny_weights, "0-1 3-4")


def test_cuda_is_refused_where_there_is_none() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    assert resolve_device("auto") == "cpu"
    with pytest.raises(BadDevice, match="finds no CUDA device"):
        resolve_device("cuda")


@pytest.mark.parametrize("name", ["gpu", "meta", "cuda:x", ""])
def test_an_unknown_device_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(BadDevice, match="auto, cpu, cuda or cuda:N"):
        resolve_device(name)


def test_an_unknown_dtype_is_refused_with_the_known_ones() -> None:
    with pytest.raises(BadDevice, match="float32, bfloat16, float16"):
        resolve_dtype("int3")
