"""Directories that are quantized after prompts, against those that are rounded when they are loaded."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from llm_sepweight import Manifest, OccupiedDirectoryError, WrongDigestError, load, verify
from splitlearn.backends.cpu.linear.int4 import Int4Parameter, quantize_int4
from splitlearn.backends.cpu.packing import pack
from splitlearn.calibration.directory import Quantized, Rounding, quantize
from splitlearn.calibration.feedback import output_errors, round_int4
from splitlearn.calibration.layers import linear_layers, run, second_moments
from splitlearn.checkpoints.load import fill, load_part
from splitlearn.checkpoints.sources import open_sepweight
from splitlearn.errors import BadCheckpoint, BadRows
from splitlearn.model.part import Part
from support.tiny_models import N_LAYERS, random_model, save_sepweight, tiny_config

DICE = torch.Generator().manual_seed(1)
RANDOM = torch.randint(3, 384, (12, 48), generator=DICE)
PROMPTS, HELD_OUT = RANDOM[:8].tolist(), RANDOM[8:]


def weights_of(folder: Path, model_type: str, dtype: str | None = None, **changes: Any) -> Path:
    return save_sepweight(folder, random_model(tiny_config(model_type, **changes)), dtype=dtype)


def logits(part: Part) -> torch.Tensor:
    """Of texts that were none of the prompts."""
    return torch.cat([part(ids_T, 0, part.new_cache(), wanted="all").float() for ids_T in HELD_OUT])


def off(part: Part, expected: torch.Tensor) -> float:
    return float((logits(part) - expected).square().mean() / expected.square().mean())


@pytest.mark.parametrize("rounding", [Rounding(), Rounding(zero_points=False), Rounding(64)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model_type", ["llama", "qwen2", "gpt2"])
def test_outputs_are_nearer_to_the_model_s_than_those_of_rounding_at_load(
    model_type: str, dtype: str, rounding: Rounding, tmp_path: Path
) -> None:
    weights = weights_of(tmp_path, model_type, dtype, tie_word_embeddings=model_type == "qwen2")
    done = quantize(weights, tmp_path / "out", PROMPTS, rounding)
    expected = logits(load_part(weights, "f"))
    nearest, found = load_part(weights, "f"), load_part(tmp_path / "out", "f", keep_int4=True)
    pack(nearest, "int4")
    pack(found, "int4")
    assert off(found, expected) < 0.9 * off(nearest, expected)
    assert 0 < done.error < (0.6 if rounding.group_size == 32 else 1) * done.nearest_error


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_levels_in_4_bits_compute_what_their_numbers_do(model_type: str, tmp_path: Path) -> None:
    quantize(weights_of(tmp_path, model_type, tie_word_embeddings=False), tmp_path / "out", PROMPTS)
    kept, numbers = load_part(tmp_path / "out", "f", keep_int4=True), load_part(tmp_path / "out", "f")
    assert sum(isinstance(each, Int4Parameter) for each in kept.parameters()) == (36 if model_type == "llama" else 21)
    assert logits(kept).isnan().all()
    pack(kept, "int4")
    torch.testing.assert_close(logits(kept), logits(numbers), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rounding", [Rounding(), Rounding(zero_points=False), Rounding(64)])
def test_a_tied_head_is_rounded_after_its_inputs_and_the_embedding_stays(rounding: Rounding, tmp_path: Path) -> None:
    weights, out = weights_of(tmp_path, "qwen2", "bfloat16", tie_word_embeddings=True), tmp_path / "out"
    quantize(weights, out, PROMPTS, rounding)
    part = load_part(out, "4-5 e", keep_int4=True)
    head = part.model.get_output_embeddings().weight
    assert isinstance(head, Int4Parameter)
    below = load_part(out, "b 0-4")
    embedding_VD = load(weights, "b").begin["embed_tokens.weight"]  # type: ignore[index]
    assert torch.equal(below.model.get_input_embeddings().weight, embedding_VD)
    # the moments of what comes to the head from the layers as they were before the last was rounded, as everywhere
    last = load_part(weights, "4-5 e")
    (layer,) = [each for each in linear_layers(last, (), rounding.group_size).layers if each.section == "end"]
    rows = list(run(below, [torch.tensor(ids) for ids in PROMPTS]))
    moments_DD = second_moments(last, [layer], rows)[layer.place]
    expected = round_int4(embedding_VD, moments_DD, rounding.group_size, zero_points=rounding.zero_points)
    found = head.packed.unpacked()
    assert torch.equal(found.levels_NK, expected.levels_NK)
    assert torch.equal(found.scale_NG, expected.scale_NG)
    assert output_errors(embedding_VD, found, moments_DD).sum() < (
        0.7 * output_errors(embedding_VD, quantize_int4(embedding_VD), moments_DD).sum()
    )


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_without_int4_a_tied_head_has_the_embedding_s_numbers(quantization: str, tmp_path: Path) -> None:
    weights, out = weights_of(tmp_path, "qwen2", "bfloat16", tie_word_embeddings=True), tmp_path / "out"
    quantize(weights, out, PROMPTS)
    plain, part = load_part(weights, "4-5 e"), load_part(out, "4-5 e")
    assert torch.equal(part.model.get_output_embeddings().weight, plain.model.get_output_embeddings().weight)
    whole = load_part(out, "f").model
    # in memory once
    assert whole.get_output_embeddings().weight.data_ptr() == whole.get_input_embeddings().weight.data_ptr()
    cpu, dtype = torch.device("cpu"), torch.bfloat16
    filled = load_part(out, "f", keep_int4=True)
    fill(filled, open_sepweight(out).weights(filled.spec, cpu, dtype), cpu, dtype)
    assert torch.equal(filled.model.get_output_embeddings().weight, whole.get_input_embeddings().weight)
    pack(plain, quantization)
    pack(part, quantization)
    assert torch.equal(part.model.get_output_embeddings().weight, plain.model.get_output_embeddings().weight)


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_other_quantizations_take_the_numbers(quantization: str, tmp_path: Path) -> None:
    quantize(weights_of(tmp_path, "gpt2", "bfloat16", tie_word_embeddings=False), tmp_path / "out", PROMPTS)
    kept, numbers = load_part(tmp_path / "out", "f", keep_int4=True), load_part(tmp_path / "out", "f")
    pack(kept, quantization)
    pack(numbers, quantization)
    assert torch.equal(logits(kept), logits(numbers))


def test_the_manifest_is_that_of_weights_that_stay_in_4_bits(tmp_path: Path) -> None:
    weights, out = weights_of(tmp_path, "qwen2", "bfloat16", tie_word_embeddings=True), tmp_path / "out"
    told: list[int] = []
    done = quantize(weights, out, PROMPTS, progress=told.append)
    before, after = Manifest.read(weights), Manifest.read(out)
    assert (after.model_name, after.config, after.dtype, after.tied) == (
        before.model_name,
        before.config,
        before.dtype,
        before.tied,
    )
    layers = [name for name in before.files if name.startswith("mid")]
    assert after.dequantized == {name: before.files[name].size for name in [*layers, "end"]}
    assert all(after.files[name].size < 0.5 * before.files[name].size for name in layers)
    assert after.files["begin"] == before.files["begin"]
    assert sum(told) == sum(entry.size for entry in before.files.values())
    assert done.n_weights == 7 * N_LAYERS + 1
    assert not done.left
    assert (out / "tokenizer.json").read_bytes() == (weights / "tokenizer.json").read_bytes()
    verify(out)


def test_what_is_no_linear_layer_is_copied(tmp_path: Path) -> None:
    weights, out = weights_of(tmp_path, "mixtral", "bfloat16"), tmp_path / "out"
    quantize(weights, out, PROMPTS)
    before, after = load(weights, "1-2").mid[1], load(out, "1-2").mid[1]
    copied = before.keys() & after.keys()
    assert {name.rpartition("mlp.experts.")[2] for name in copied} >= {"gate_up_proj", "down_proj"}
    assert all(torch.equal(before[name], after[name]) for name in copied)
    assert {name.partition(".weight.int4_")[0] + ".weight" for name in after.keys() - copied} == before.keys() - copied


def test_the_rows_of_a_layer_come_from_the_layers_before_it_as_they_are_rounded(tmp_path: Path) -> None:
    weights, out = weights_of(tmp_path, "llama"), tmp_path / "out"
    quantize(weights, out, PROMPTS)
    # the same layer behind the rounded first: its own result, and not that of the original first layer
    below, above = load_part(out, "b 0-1"), load_part(weights, "1-2")
    assert not torch.equal(*(part(HELD_OUT[0], 0, part.new_cache()) for part in (below, load_part(weights, "b 0-1"))))
    rows = list(run(below, [torch.tensor(ids) for ids in PROMPTS]))
    layers = linear_layers(above, (), 32).layers
    found = second_moments(above, layers, rows)
    expected = round_int4(layers[0].weight_NK, found[layers[0].place], 32, zero_points=True)
    kept = load_part(out, "1-2", keep_int4=True).get_parameter("model.model.layers.0.self_attn.q_proj.weight")
    assert isinstance(kept, Int4Parameter)
    assert torch.equal(kept.packed.unpacked().levels_NK, expected.levels_NK)


def test_weights_that_float16_has_no_scale_for_are_left(tmp_path: Path) -> None:
    model = random_model(tiny_config("llama"))
    with torch.no_grad():
        model.model.layers[2].mlp.up_proj.weight[0, 0] = 1e6
    done = quantize(save_sepweight(tmp_path, model), tmp_path / "out", PROMPTS)
    assert done.left["float16 does not hold the scales"] == ["mid.00002/mlp.up_proj.weight"]
    assert "left 1 weight as float16 does not hold the scales: mid.00002/mlp.up_proj.weight" in done.notes()
    assert load(tmp_path / "out", "2-3").mid[2]["mlp.up_proj.weight"][0, 0] == 1e6


def test_a_weight_that_is_not_finite_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    model = random_model(tiny_config("llama"))
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = torch.inf
    weights = save_sepweight(tmp_path, model)
    with pytest.raises(BadCheckpoint, match=r"mid.00001/.*not finite"):
        quantize(weights, tmp_path / "out", PROMPTS)
    assert not (tmp_path / "out").exists()


def test_what_is_in_4_bits_already_is_refused(tmp_path: Path) -> None:
    quantize(weights_of(tmp_path, "llama"), tmp_path / "out", PROMPTS)
    with pytest.raises(BadCheckpoint, match="4 bits already"):
        quantize(tmp_path / "out", tmp_path / "again", PROMPTS)


def test_a_finished_directory_is_replaced_on_demand_alone(tmp_path: Path) -> None:
    weights, out = weights_of(tmp_path, "llama"), tmp_path / "out"
    quantize(weights, out, PROMPTS)
    first = Manifest.read(out).digest
    with pytest.raises(OccupiedDirectoryError):
        quantize(weights, out, PROMPTS, Rounding(zero_points=False))
    assert Manifest.read(out).digest == first
    quantize(weights, out, PROMPTS, Rounding(zero_points=False), overwrite=True)
    assert Manifest.read(out).digest != first
    assert not [name for name in load(out, "0-1").mid[0] if name.endswith("int4_zeros")]


def test_equal_prompts_give_an_equal_directory(tmp_path: Path) -> None:
    weights = weights_of(tmp_path, "gpt2")
    for name in ("one", "two"):
        quantize(weights, tmp_path / name, PROMPTS)
    assert Manifest.read(tmp_path / "one").digest == Manifest.read(tmp_path / "two").digest


def test_a_damaged_file_is_refused_and_gets_no_digest_of_its_own(tmp_path: Path) -> None:
    weights = weights_of(tmp_path, "llama")
    file = weights / "mid.00003.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(WrongDigestError):
        quantize(weights, tmp_path / "out", PROMPTS)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("prompts", "says"), [([], "no prompt"), ([[3], []], "empty"), ([[384]], "384 tokens"), ([[-1]], "384 tokens")]
)
def test_prompts_that_cannot_be_run_are_refused(prompts: list[list[int]], says: str, tmp_path: Path) -> None:
    weights = weights_of(tmp_path, "llama")
    with pytest.raises(BadRows, match=says):
        quantize(weights, tmp_path / "out", prompts)


def test_of_a_prompt_as_much_is_run_as_the_context_holds(tmp_path: Path) -> None:
    weights = weights_of(tmp_path, "gpt2", n_positions=32)
    quantize(weights, tmp_path / "long", [PROMPTS[0]])
    quantize(weights, tmp_path / "short", [PROMPTS[0][:32]])
    assert Manifest.read(tmp_path / "long").digest == Manifest.read(tmp_path / "short").digest


@pytest.mark.parametrize("group_size", [0, 16, 48])
def test_a_group_is_a_multiple_of_32_inputs(group_size: int) -> None:
    with pytest.raises(ValueError, match="multiple of 32"):
        Rounding(group_size)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the process's table of mappings")
def test_one_layer_is_in_memory_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = weights_of(tmp_path, "llama")
    mapped: list[set[str]] = []

    def noted(*args: Any, **kwargs: Any) -> Part:
        lines = Path("/proc/self/maps").read_text().splitlines()
        mapped.append({line.rpartition("/")[2] for line in lines if str(weights) in line})
        return load_part(*args, **kwargs)

    monkeypatch.setattr("splitlearn.calibration.directory.load_part", noted)
    quantize(weights, tmp_path / "out", PROMPTS)
    assert mapped == [set()] * N_LAYERS


def test_notes_tell_the_error_in_terms_of_rounding_to_the_nearest() -> None:
    done = Quantized(n_weights=2, error=1.0, nearest_error=4.0)
    assert done.notes() == ["rounded 2 weights to 4 bits; the error of outputs is 0.25 of round-to-nearest's"]
