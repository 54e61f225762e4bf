"""A GGUF file becomes the model, and the tokenizer, that transformers makes of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from llm_sepweight import load
from splitlearn.checkpoints.convert import prepare
from splitlearn.checkpoints.costs import read_stored
from splitlearn.errors import BadCheckpoint, SplitError, UnsupportedModel
from support.gguf_files import HIDDEN, write_gguf
from support.quantized_checkpoints import assert_same, converted, logits_after_conversion, logits_of, written


def by_transformers(path: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()


@pytest.mark.parametrize("kind", [Kind.Q4_0, Kind.Q4_K, Kind.Q5_K, Kind.Q6_K, Kind.Q8_0, Kind.F16, Kind.BF16, Kind.F32])
@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_weights_are_those_of_transformers(tmp_path: Path, architecture: str, kind: Kind) -> None:
    path = write_gguf(tmp_path / "model.gguf", architecture, kind)
    assert_same(converted(path, "float32"), by_transformers(path).state_dict())


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_logits_are_those_of_transformers(tmp_path: Path, architecture: str) -> None:
    # transformers does not read a head's size for qwen3, and takes 128
    more = {"attention.key_length": 64} if architecture == "qwen3" else {}
    path = write_gguf(tmp_path / "model.gguf", architecture, Kind.F32, metadata=more)
    config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name, head_dim=64)
    whole = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, config=config, dtype=torch.float32)
    torch.testing.assert_close(logits_after_conversion(path, tmp_path / "out"), logits_of(whole.eval()))


def test_a_head_that_is_the_embeddings_is_tied(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", tied=True)
    conversion = prepare(str(path), dtype="float32")
    assert conversion.tied == {"end/lm_head.weight": "begin/embed_tokens.weight"}
    expected = by_transformers(path).state_dict()
    del expected["lm_head.weight"]
    assert_same(written(conversion), expected)


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_the_config_is_that_of_transformers(tmp_path: Path, architecture: str) -> None:
    path = write_gguf(tmp_path / "model.gguf", architecture)
    expected = AutoConfig.from_pretrained(path.parent, gguf_file=path.name).to_dict()
    found = prepare(str(path)).config
    compared = found.keys() & expected.keys() - {"architectures", "head_dim"}
    assert {key: found[key] for key in compared} == {key: expected[key] for key in compared}
    assert len(compared) >= 14
    assert found["head_dim"] == 64


def test_the_tokenizer_is_that_of_transformers(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", "qwen2")
    (tmp_path / "tokenizer_config.json").write_text("not of this file")
    prepare(str(path)).write(tmp_path / "out")
    (tmp_path / "tokenizer_config.json").unlink()
    own = AutoTokenizer.from_pretrained(tmp_path / "out")
    expected = AutoTokenizer.from_pretrained(tmp_path, gguf_file=path.name)
    for text in ("the quick brown fox", "  Größe 7\n\n<s>x</s>", "it's 1234 🙂"):
        assert own(text)["input_ids"] == expected(text)["input_ids"]
        assert own.decode(own(text)["input_ids"]) == expected.decode(expected(text)["input_ids"])
    assert (own.bos_token, own.eos_token, own.chat_template) == ("<s>", "</s>", expected.chat_template)
    assert own.chat_template is not None


def test_a_file_without_a_vocabulary_gives_no_tokenizer(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", vocabulary=None)
    assert prepare(str(path)).tokenizer_files == {}


@pytest.mark.parametrize(
    ("kind", "dtype", "expected"),
    [
        (Kind.Q8_0, None, "bfloat16"),
        (Kind.F16, None, "float16"),
        (Kind.BF16, None, "bfloat16"),
        (Kind.F32, None, "float32"),
        (Kind.Q8_0, "float16", "float16"),
    ],
)
def test_the_dtype_is_the_one_asked_for_or_the_files_or_bfloat16(
    tmp_path: Path, kind: Kind, dtype: str | None, expected: str
) -> None:
    assert prepare(str(write_gguf(tmp_path / "model.gguf", kind=kind)), dtype=dtype).dtype == expected


def test_the_model_is_called_like_the_file_and_goes_beside_it(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny-q8_0.gguf")
    manifest = prepare(str(path)).write(tmp_path / "out")
    assert manifest.model_name == "tiny-q8_0"
    assert load(tmp_path / "out", "1-2").mid[1]["mlp.up_proj.weight"].dtype == torch.bfloat16
    assert read_stored(path).sections.keys() == manifest.files.keys()


def llama3_factors(factor: float = 8.0) -> np.ndarray:
    """What llama.cpp's conversion writes of Llama 3.1's config, from its description."""
    wavelengths = 2 * np.pi * 50000.0 ** (np.arange(0, 64, 2) / 64)
    smooth = (8192 / wavelengths - 1) / 3
    between = 1 / ((1 - smooth) / factor + smooth)
    return np.where(wavelengths < 2048, 1.0, np.where(wavelengths > 8192, factor, between)).astype(np.float32)


def test_llama_3s_factors_become_its_config(tmp_path: Path) -> None:
    """transformers leaves them out of account; the frequencies of its own Llama are compared."""
    path = write_gguf(tmp_path / "model.gguf", tensors={"rope_freqs.weight": llama3_factors()})
    conversion = prepare(str(path))
    assert conversion.left_out == ()
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**conversion.config))
    plain = torch.tensor(50000.0) ** (-torch.arange(0, 64, 2) / 64)
    torch.testing.assert_close(model.model.rotary_emb.inv_freq, plain / torch.from_numpy(llama3_factors()))


def test_a_linear_scaling_becomes_one_of_the_config(tmp_path: Path) -> None:
    metadata = {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}
    path = write_gguf(tmp_path / "model.gguf", metadata=metadata)
    expected = {"rope_theta": 50000.0, "rope_type": "linear", "factor": 4.0}
    assert prepare(str(path)).config["rope_parameters"] == expected


def test_no_experts_are_no_mixture_of_experts(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", metadata={"expert_count": 0})
    assert prepare(str(path)).config["model_type"] == "llama"


def test_a_count_for_each_layer_is_one_if_all_are_the_same(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", metadata={"attention.head_count_kv": [2, 2, 2]})
    assert prepare(str(path)).config["num_key_value_heads"] == 2


@pytest.mark.parametrize(
    ("metadata", "error", "named"),
    [
        ({"expert_count": 8}, UnsupportedModel, "llama with expert_count"),
        ({"attention.sliding_window": 64}, UnsupportedModel, "llama with attention.sliding_window"),
        ({"rope.dimension_count": 32}, UnsupportedModel, "rope.dimension_count 32 beside heads of 64"),
        ({"rope.scaling.type": "yarn"}, UnsupportedModel, "rope.scaling.type yarn"),
        ({"split.count": 3}, UnsupportedModel, "split.count 3"),
        ({"block_count": None}, BadCheckpoint, "llama.block_count should be a whole number"),
        ({"block_count": 0}, BadCheckpoint, "llama.block_count should be a whole number"),
        ({"block_count": 2**31}, BadCheckpoint, "llama.block_count should be a whole number"),
        ({"attention.head_count": "four"}, BadCheckpoint, "attention.head_count should be a whole number"),
        ({"attention.head_count_kv": [2, 1, 2]}, BadCheckpoint, "attention.head_count_kv should be"),
        ({"attention.layer_norm_rms_epsilon": float("nan")}, BadCheckpoint, "epsilon should be a number above 0"),
        ({"rope.freq_base": -1.0}, BadCheckpoint, "rope.freq_base should be a number above 0"),
        ({"rope.scaling.type": 7}, BadCheckpoint, "rope.scaling.type should be a text"),
        ({"block_count": 4}, BadCheckpoint, r"lacks 9 tensors of the model: model\.layers\.3"),
        ({"embedding_length": 512}, UnsupportedModel, "rope.dimension_count 64 beside heads of 128"),
        ({"feed_forward_length": 2**30}, BadCheckpoint, "should have the shape"),
        ({"attention.head_count_kv": 4}, BadCheckpoint, r"k_proj\.weight should have the shape"),
    ],
)
def test_metadata_that_are_not_covered_or_contradict_the_tensors_are_refused(
    tmp_path: Path, metadata: dict[str, Any], error: type[SplitError], named: str
) -> None:
    with pytest.raises(error, match=named):
        prepare(str(write_gguf(tmp_path / "model.gguf", metadata=metadata)))


@pytest.mark.parametrize(
    ("tensors", "error", "named"),
    [
        ({"blk.1.ffn_up.weight": None}, BadCheckpoint, r"lacks 1 tensors of the model: model\.layers\.1\.mlp\.up_proj"),
        ({"token_embd.weight": None}, BadCheckpoint, r"lacks token_embd\.weight"),
        (
            {"blk.1.ffn_up.weight": np.zeros((4, HIDDEN), np.float32)},
            BadCheckpoint,
            r"up_proj\.weight should have the shape \[512, 256\]",
        ),
        ({"rope_freqs.weight": llama3_factors() * 2}, UnsupportedModel, "rope_freqs that are not Llama 3's"),
        ({"rope_freqs.weight": np.ones(7, np.float32)}, UnsupportedModel, "rope_freqs that are not Llama 3's"),
        ({"rope_freqs.weight": np.ones(32, np.float16)}, UnsupportedModel, r"rope_freqs\.weight of the type F16"),
        ({"blk.1.ffn_up.weight": np.zeros((512, HIDDEN), np.int8)}, UnsupportedModel, "is of the type I8"),
    ],
)
def test_tensors_that_are_missing_or_of_another_shape_are_named(
    tmp_path: Path, tensors: dict[str, Any], error: type[SplitError], named: str
) -> None:
    with pytest.raises(error, match=named):
        prepare(str(write_gguf(tmp_path / "model.gguf", tensors=tensors)))


def test_tensors_that_the_model_has_no_place_for_are_told(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", tensors={"blk.0.attn_rot_embd": np.ones(4, np.float32)})
    assert prepare(str(path)).left_out == ("blk.0.attn_rot_embd",)


def test_other_architectures_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="GGUF, gemma3 with an architecture other than llama, qwen2, qwen3"):
        prepare(str(write_gguf(tmp_path / "model.gguf", "gemma3")))


def test_a_vocabulary_that_transformers_cannot_read_is_told_in_one_line(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", vocabulary="rwkv")
    with pytest.raises(BadCheckpoint, match=r"the tokenizer in .*model\.gguf cannot be read: .*rwkv") as refusal:
        prepare(str(path))
    assert "\n" not in str(refusal.value)


def test_rows_of_heads_are_in_transformers_order_whatever_the_block_of_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_gguf(tmp_path / "model.gguf")
    at_once = converted(path)
    monkeypatch.setattr("splitlearn.checkpoints.quantization.weight.BLOCK_VALUES", 1)
    assert_same(converted(path), at_once)
