import errno
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from architectures.small_configs import small_config
from llm_sepweight import CannotWriteError, Manifest, NoSpaceError, OccupiedDirectoryError, load
from splitlearn.checkpoints.convert import prepare
from splitlearn.checkpoints.load import load_part
from splitlearn.errors import BadCheckpoint, BadDevice, BadPlan, SplitError, UnsupportedModel
from support.sessions import Chain
from support.tiny_models import ARCHITECTURES, random_model, save_checkpoint, save_sepweight, tiny_config


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_llama: PreTrainedModel) -> Path:
    return save_checkpoint(tmp_path / "checkpoint", tiny_llama)


def test_every_tensor_of_the_model_is_written_once(checkpoint: Path, tiny_llama: PreTrainedModel) -> None:
    prepare(str(checkpoint)).write(checkpoint.parent / "out")
    state = load(checkpoint.parent / "out", "f").to_dict()
    expected = tiny_llama.state_dict()
    assert len(state) == len(expected)
    assert torch.equal(state["mid.3.mlp.up_proj.weight"], expected["model.layers.3.mlp.up_proj.weight"])
    assert torch.equal(state["end.lm_head.weight"], expected["lm_head.weight"])


def test_the_manifest_carries_config_dtype_and_layers(checkpoint: Path) -> None:
    manifest = prepare(str(checkpoint)).write(checkpoint.parent / "out")
    assert (manifest.model_name, manifest.dtype, manifest.n_layers) == ("checkpoint", "float32", 5)
    assert manifest.config["model_type"] == "llama"


def test_another_name_can_be_given(checkpoint: Path) -> None:
    assert prepare(str(checkpoint), name="mine").write(checkpoint.parent / "out").model_name == "mine"


def test_the_tokenizer_goes_along(checkpoint: Path) -> None:
    prepare(str(checkpoint)).write(checkpoint.parent / "out")
    assert (checkpoint.parent / "out" / "tokenizer.json").exists()


def test_progress_adds_up_to_the_files(checkpoint: Path) -> None:
    conversion = prepare(str(checkpoint))
    seen: list[int] = []
    manifest = conversion.write(checkpoint.parent / "out", progress=seen.append)
    assert sum(seen) == sum(entry.size for entry in manifest.files.values()) == conversion.total_bytes


def test_shards_give_the_same_files_as_one_file(tmp_path: Path, checkpoint: Path, tiny_llama: PreTrainedModel) -> None:
    tiny_llama.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 2
    whole = prepare(str(checkpoint)).write(tmp_path / "a")
    shards = prepare(str(tmp_path / "shards")).write(tmp_path / "b")
    assert whole.digest == shards.digest


def test_a_pytorch_bin_gives_the_same_files(tmp_path: Path, checkpoint: Path) -> None:
    other = tmp_path / "bin"
    other.mkdir()
    shutil.copy(checkpoint / "config.json", other)
    torch.save(load_file(checkpoint / "model.safetensors"), other / "pytorch_model.bin")
    assert prepare(str(other)).write(tmp_path / "a").digest == prepare(str(checkpoint)).write(tmp_path / "b").digest


def test_experts_stored_one_by_one_are_stacked_as_the_model_has_them(tmp_path: Path) -> None:
    model = random_model(tiny_config("mixtral"))
    save_checkpoint(tmp_path / "moe", model)
    stored = load_file(tmp_path / "moe" / "model.safetensors")
    assert any("experts.3." in name for name in stored)
    prepare(str(tmp_path / "moe")).write(tmp_path / "out")
    state = load(tmp_path / "out", "2-3").mid[2]
    expected = model.state_dict()["model.layers.2.mlp.experts.gate_up_proj"]
    assert torch.equal(state["mlp.experts.gate_up_proj"], expected)


def test_tied_weights_are_stored_once(tmp_path: Path) -> None:
    model = random_model(tiny_config("qwen2", tie_word_embeddings=True))
    save_checkpoint(tmp_path / "tied", model)
    manifest = prepare(str(tmp_path / "tied")).write(tmp_path / "out")
    assert manifest.tied == {"end/lm_head.weight": "begin/embed_tokens.weight"}
    assert "lm_head.weight" not in load_file(tmp_path / "out" / "end.safetensors")
    state = load(tmp_path / "out", "b e")
    assert state.begin is not None
    assert state.end is not None
    assert state.end["lm_head.weight"] is state.begin["embed_tokens.weight"]


def test_another_dtype_is_stored_when_asked_for(tmp_path: Path, checkpoint: Path) -> None:
    manifest = prepare(str(checkpoint), dtype="bfloat16").write(tmp_path / "out")
    assert manifest.dtype == "bfloat16"
    assert load(tmp_path / "out", "1-2").mid[1]["mlp.up_proj.weight"].dtype == torch.bfloat16


def test_a_missing_tensor_is_named_before_anything_is_written(tmp_path: Path, checkpoint: Path) -> None:
    state = load_file(checkpoint / "model.safetensors")
    del state["model.layers.4.mlp.up_proj.weight"]
    (checkpoint / "model.safetensors").unlink()
    torch.save(state, checkpoint / "pytorch_model.bin")
    with pytest.raises(BadCheckpoint, match=r"model\.layers\.4\.mlp\.up_proj\.weight"):
        prepare(str(checkpoint))


def test_a_missing_shard_is_named(tmp_path: Path, tiny_llama: PreTrainedModel) -> None:
    tiny_llama.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    next((tmp_path / "shards").glob("model-00002*")).unlink()
    with pytest.raises(BadCheckpoint, match="model-00002"):
        prepare(str(tmp_path / "shards"))


def test_a_truncated_checkpoint_is_refused_by_name(checkpoint: Path) -> None:
    file = checkpoint / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(BadCheckpoint, match=r"model\.safetensors"):
        prepare(str(checkpoint))


def test_a_tensor_of_the_wrong_shape_is_named_with_both_shapes(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "intermediate_size": 97}))
    with pytest.raises(BadCheckpoint, match=r"\[64, 97\], found \[64, 96\]"):
        prepare(str(checkpoint))


def test_a_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match=r"no config\.json"):
        prepare(str(tmp_path))


def test_neither_folder_nor_hub_model_is_refused_in_one_line() -> None:
    with pytest.raises(BadCheckpoint, match="neither a local folder nor a model") as caught:
        prepare("nobody/nothing-of-this-name")
    assert "\n" not in str(caught.value)


def test_an_encoder_is_refused_at_convert_time(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(UnsupportedModel, match="t5"):
        prepare(str(tmp_path))


def test_an_interrupted_conversion_leaves_nothing_that_loads(tmp_path: Path, checkpoint: Path) -> None:
    class Interrupted(Exception):
        pass

    def stop_midway(_: int) -> None:
        if len(list((tmp_path / "out").glob("mid.*.safetensors"))) == 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        prepare(str(checkpoint)).write(tmp_path / "out", progress=stop_midway)
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert prepare(str(checkpoint)).write(tmp_path / "out").digest == Manifest.read(tmp_path / "out").digest


def anonymous_bytes() -> int:
    """Memory of this process that no file backs."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("RssAnon"))) * 1024


def test_memory_is_bounded_by_the_largest_tensor(tmp_path: Path) -> None:
    wide = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 10}
    config = tiny_config("llama", **wide)
    random_model(config).save_pretrained(tmp_path / "wide", max_shard_size="40MB")
    largest = 512 * 2048 * 4
    conversion = prepare(str(tmp_path / "wide"))
    assert conversion.total_bytes > 30 * largest
    before, seen = anonymous_bytes(), [0]
    conversion.write(tmp_path / "out", progress=lambda _: seen.append(anonymous_bytes() - before))
    assert max(seen) < 3 * largest


def test_quantised_weights_are_refused_instead_of_cast(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "hqq"}}))
    with pytest.raises(UnsupportedModel, match="quantised weights"):
        prepare(str(checkpoint))


def test_tensors_that_must_stay_in_fp32_do(tmp_path: Path) -> None:
    experts = {"moe_intermediate_size": 32, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1}
    few = {"n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "head_dim": 16, "num_hidden_layers": 3}
    common = ARCHITECTURES["llama"]
    config = CONFIG_MAPPING["glm4_moe"](**{**common, **experts, **few})
    save_checkpoint(tmp_path / "moe", random_model(config))
    # which they are is transformers' to say: from 5.24 on the gate's weight is one of them
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "moe", dtype=torch.bfloat16).model.layers[1]
    expected = {name for name, tensor in whole.state_dict().items() if tensor.dtype == torch.float32}
    prepare(str(tmp_path / "moe"), dtype="bfloat16").write(tmp_path / "out")
    weights = load(tmp_path / "out", "1-2").mid[1]
    assert "mlp.gate.e_score_correction_bias" in expected
    assert {name for name, tensor in weights.items() if tensor.dtype == torch.float32} == expected
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32, torch.bfloat16}
    part = load_part(tmp_path / "out", "1-2")
    kept = {name for name, tensor in part.state_dict().items() if tensor.dtype == torch.float32}
    assert kept == {f"model.model.layers.0.{name}" for name in expected}


def test_two_different_tensors_are_not_tied_whatever_the_config_says(tmp_path: Path) -> None:
    model = random_model(tiny_config("qwen2", tie_word_embeddings=False))
    folder = save_checkpoint(tmp_path / "untied", model)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    assert prepare(str(folder)).write(tmp_path / "out").tied == {}
    state = load(tmp_path / "out", "e").to_dict()
    assert torch.equal(state["end.lm_head.weight"], model.state_dict()["lm_head.weight"])


def test_an_old_bin_without_zip_is_read(tmp_path: Path, checkpoint: Path) -> None:
    other = tmp_path / "bin"
    other.mkdir()
    shutil.copy(checkpoint / "config.json", other)
    state = load_file(checkpoint / "model.safetensors")
    torch.save(state, other / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert prepare(str(other)).write(tmp_path / "a").digest == prepare(str(checkpoint)).write(tmp_path / "b").digest


@pytest.mark.parametrize("text", ["[]", "{", '{"hidden_size": 3}'])
def test_a_config_that_cannot_be_used_is_refused_in_one_line(checkpoint: Path, text: str) -> None:
    (checkpoint / "config.json").write_text(text)
    with pytest.raises(SplitError) as caught:
        prepare(str(checkpoint))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[]", "{}", "{"])
def test_an_index_that_cannot_be_read_is_named(tmp_path: Path, checkpoint: Path, text: str) -> None:
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "model.safetensors.index.json").write_text(text)
    with pytest.raises(BadCheckpoint, match="index of shards"):
        prepare(str(checkpoint))


def test_derived_buffers_are_made_in_the_dtype_that_runs(tmp_path: Path) -> None:
    model = random_model(tiny_config("gemma"))
    weights = save_sepweight(tmp_path, model, dtype="bfloat16")
    part = load_part(weights, "b 0-1", dtype="float32")
    scale = part.get_buffer("model.model.embed_tokens.embed_scale")
    assert scale.dtype == torch.float32
    assert scale.item() == pytest.approx(64**0.5)


def config_says(checkpoint: Path, **fields: Any) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, **fields}))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"dtype": None, "torch_dtype": "float16"}, "float16"),
        ({"dtype": "bfloat16", "torch_dtype": "float16"}, "bfloat16"),
        ({"dtype": None, "torch_dtype": None}, "float32"),
    ],
)
def test_the_dtype_is_the_one_that_the_config_names(checkpoint: Path, fields: dict[str, Any], expected: str) -> None:
    config_says(checkpoint, **fields)
    assert prepare(str(checkpoint)).dtype == expected


def test_the_dtype_of_a_text_part_is_taken_where_the_config_names_no_other(tmp_path: Path) -> None:
    model = random_model(small_config("gemma3"))
    model.save_pretrained(tmp_path)
    text = json.loads((tmp_path / "config.json").read_text())["text_config"]
    config_says(tmp_path, dtype=None, text_config={**text, "dtype": None, "torch_dtype": "float16"})
    assert prepare(str(tmp_path)).dtype == "float16"


def test_a_model_with_a_text_part_keeps_its_own_type(tmp_path: Path) -> None:
    config = small_config("qwen3_5")
    random_model(config).save_pretrained(tmp_path / "in")
    # as published, with the text part's config inside of the whole model's
    config.save_pretrained(tmp_path / "in")
    manifest = prepare(str(tmp_path / "in")).write(tmp_path / "out")
    assert manifest.config["model_type"] == "qwen3_5"
    assert load_part(tmp_path / "out", "b 0-1").config.model_type == "qwen3_5_text"


def test_a_config_that_names_none_leaves_the_dtype_that_most_numbers_have(checkpoint: Path) -> None:
    state = load_file(checkpoint / "model.safetensors")
    mixed = {name: tensor if "norm" in name else tensor.to(torch.bfloat16) for name, tensor in state.items()}
    save_file(mixed, checkpoint / "model.safetensors")
    config_says(checkpoint, dtype=None)
    assert prepare(str(checkpoint)).dtype == "bfloat16"


def test_a_dtype_that_nothing_runs_in_is_refused_before_the_weights_are_read(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(BadDevice, match="choose one of"):
        prepare(str(checkpoint), dtype="int8")


def test_what_is_left_out_is_told_in_one_line(checkpoint: Path) -> None:
    state = load_file(checkpoint / "model.safetensors")
    assert prepare(str(checkpoint)).notes() == []
    state |= {f"vision.layers.{i}.weight": torch.ones(1) for i in range(40)}
    state |= {name: torch.ones(1) for name in ("a", "b", "c", "d", "e")}
    save_file(state, checkpoint / "model.safetensors")
    told = "left out 45 tensors that the model has no place for: a, b, c, d and 41 more"
    assert prepare(str(checkpoint)).notes() == [told]


def test_what_is_missing_is_an_error_that_tells_what_is_there_instead(checkpoint: Path) -> None:
    state = load_file(checkpoint / "model.safetensors")
    renamed = {name.replace("mlp.up_proj", "mlp.upward"): tensor for name, tensor in state.items()}
    save_file(renamed, checkpoint / "model.safetensors")
    with pytest.raises(BadCheckpoint, match=r"lacks 5 .*mlp\.up_proj\.weight \(5\); it holds .*upward.* instead"):
        prepare(str(checkpoint))


@pytest.mark.parametrize("n_layers", [1, 2])
def test_a_model_that_is_too_shallow_to_cut_is_refused(tmp_path: Path, n_layers: int) -> None:
    save_checkpoint(tmp_path / "shallow", random_model(tiny_config("llama", num_hidden_layers=n_layers)))
    with pytest.raises(BadPlan, match="at least 3"):
        prepare(str(tmp_path / "shallow"))


@pytest.mark.parametrize(("model_type", "encoder"), [("bart", 12), ("bart", 2), ("whisper", 12), ("marian", 1)])
def test_an_encoder_of_another_depth_changes_nothing(tmp_path: Path, model_type: str, encoder: int) -> None:
    config = small_config(model_type)
    config.encoder_layers = encoder
    model = random_model(config)
    model.save_pretrained(tmp_path / "checkpoint")
    config.save_pretrained(tmp_path / "checkpoint")
    manifest = prepare(str(tmp_path / "checkpoint")).write(tmp_path / "out")
    assert manifest.n_layers == 6
    ids_T = torch.arange(5, 25)
    parts = Chain([load_part(tmp_path / "out", spec) for spec in ("b 0-2", "2-4", "4-6 e")])
    parts.append(ids_T[:13])
    with torch.inference_mode():
        expected_V = model(ids_T[None], use_cache=False).logits[0, -1]
    assert torch.allclose(parts.append(ids_T[13:]), expected_V, atol=1e-4)


@pytest.mark.parametrize("out", ["checkpoint", "checkpoint/parts", "link"])
def test_the_output_is_not_the_checkpoint(tmp_path: Path, checkpoint: Path, out: str) -> None:
    (tmp_path / "link").symlink_to(checkpoint)
    before = sorted(path.name for path in checkpoint.iterdir())
    with pytest.raises(OccupiedDirectoryError, match="what would be converted"):
        prepare(str(checkpoint)).write(tmp_path / out, overwrite=True)
    assert sorted(path.name for path in checkpoint.iterdir()) == before


def test_a_disk_that_fills_up_is_told_and_leaves_nothing(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversion = prepare(str(checkpoint))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=conversion.total_bytes - 1))
    with pytest.raises(NoSpaceError):
        conversion.write(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.undo()

    def fill(_: int) -> None:
        if len(list((tmp_path / "out").glob("mid.*.safetensors"))) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(CannotWriteError, match="No space left on device"):
        conversion.write(tmp_path / "out", progress=fill)
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_of_the_model_before_does_not_stay(tmp_path: Path, checkpoint: Path) -> None:
    (checkpoint / "vocab.txt").write_text("a")
    prepare(str(checkpoint)).write(tmp_path / "out")
    (tmp_path / "out" / "notes").write_text("mine")
    (checkpoint / "vocab.txt").unlink()
    prepare(str(checkpoint)).write(tmp_path / "out", overwrite=True)
    assert not (tmp_path / "out" / "vocab.txt").exists()
    assert (tmp_path / "out" / "tokenizer.json").exists()
    assert (tmp_path / "out" / "notes").exists()


def test_a_folder_with_a_checkpoint_of_its_own_is_written_to_only_on_demand(tmp_path: Path, checkpoint: Path) -> None:
    other = save_checkpoint(tmp_path / "other", random_model(tiny_config("llama"), seed=1))
    (other / "tokenizer.json").write_text("{}")
    before = {path.name: path.read_bytes() for path in other.iterdir()}
    with pytest.raises(BadCheckpoint, match="holds a checkpoint of its own"):
        prepare(str(checkpoint)).write(other)
    assert {path.name: path.read_bytes() for path in other.iterdir()} == before
    prepare(str(checkpoint)).write(other, overwrite=True)
    assert (other / "tokenizer.json").read_bytes() == (checkpoint / "tokenizer.json").read_bytes()
