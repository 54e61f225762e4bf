"""The context is as long as what the model has for positions, whatever its config calls it."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PretrainedConfig

from architectures.small_configs import small_config
from llm_sepweight import PartSpec
from splitlearn.checkpoints.convert import prepare
from splitlearn.checkpoints.load import load_part
from splitlearn.model.part import cut
from support.sessions import Chain
from support.tiny_models import random_model, save_checkpoint, tiny_config

FACTORS = {"short_factor": [1.0] * 8, "long_factor": [3.0] * 8}
LONG = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 48, **FACTORS}
PLAIN = {"rope_type": "default", "rope_theta": 10000.0}


def context_of(config: PretrainedConfig) -> int | None:
    lengths = {cut(copy.deepcopy(config), PartSpec.parse(spec)).context_length for spec in ("b 0-1", "1-2", "2-6 e")}
    assert len(lengths) == 1, "the parts of one model disagree"
    return lengths.pop()


@pytest.mark.parametrize(
    ("model_type", "sizes", "expected"),
    [
        ("gpt2", {"n_positions": 40}, 40),
        ("bert", {"max_position_embeddings": 40}, 40),
        # the first rows of these tables are for padding
        ("roberta", {"max_position_embeddings": 40, "pad_token_id": 1}, 38),
        ("xlm-roberta", {"max_position_embeddings": 40, "pad_token_id": 0}, 39),
        ("camembert", {"max_position_embeddings": 40, "pad_token_id": 5}, 34),
        ("opt", {"max_position_embeddings": 40}, 40),
        ("bart", {"max_position_embeddings": 40}, 40),
        ("biogpt", {"max_position_embeddings": 40}, 40),
        ("whisper", {"max_target_positions": 40, "max_source_positions": 99}, 40),
        ("codegen", {"n_positions": 40}, 40),
        ("mpt", {"max_seq_len": 40}, 40),
    ],
)
def test_the_whole_model_takes_a_prompt_of_the_context_and_none_longer(
    model_type: str, sizes: dict[str, Any], expected: int
) -> None:
    config = small_config(model_type)
    for name, size in sizes.items():
        setattr(config, name, size)
    assert context_of(config) == expected
    whole = AutoModelForCausalLM.from_config(config).eval()
    ids_T = torch.full((expected + 1,), 7)
    with torch.inference_mode():
        whole(ids_T[None, :expected])
        with pytest.raises((IndexError, RuntimeError)):
            whole(ids_T[None])


@pytest.mark.parametrize("model_type", ["bloom", "mamba", "jamba"])
def test_a_model_without_positions_has_no_end(model_type: str) -> None:
    assert context_of(small_config(model_type)) is None


def test_a_falcon_that_counts_by_alibi_has_no_end() -> None:
    config = small_config("falcon")
    assert context_of(config) == 256
    config.alibi = True
    assert context_of(config) is None


def test_rotary_tables_end_where_they_were_made_for() -> None:
    assert context_of(tiny_config("llama", num_hidden_layers=6)) == 512


@pytest.mark.parametrize(
    "layers",
    [{"full_attention": LONG, "sliding_attention": PLAIN}, {"full_attention": PLAIN, "sliding_attention": LONG}],
)
def test_longrope_of_one_type_of_layers_ends_the_context_at_its_original_length(layers: dict[str, Any]) -> None:
    config = small_config("gemma3_text")
    config.rope_parameters = layers
    assert context_of(config) == 48


def longrope(model_type: str) -> PretrainedConfig:
    if model_type == "phi3":
        return tiny_config("phi3", rope_parameters=LONG, original_max_position_embeddings=48)
    config = small_config(model_type)
    config.rope_parameters = {"full_attention": LONG, "sliding_attention": PLAIN}
    return config


@pytest.mark.parametrize("model_type", ["phi3", "gemma3_text"])
def test_up_to_the_original_length_parts_are_the_whole_model_also_after_one_that_went_past_it(
    tmp_path: Path, model_type: str
) -> None:
    model = random_model(longrope(model_type))
    save_checkpoint(tmp_path / "checkpoint", model)
    prepare(str(tmp_path / "checkpoint")).write(tmp_path / "out")
    parts = [load_part(tmp_path / "out", spec) for spec in ("b 0-1", "1-3", f"3-{model.config.num_hidden_layers} e")]
    length = parts[0].context_length
    assert length == 48
    ids_T = torch.randint(3, 100, (length + 8,), generator=torch.Generator().manual_seed(3))
    # what the engine refuses, so that the tables are those for long texts
    Chain(parts).append(ids_T)
    chain = Chain(parts)
    for start, end in ((0, 40), (40, 47), (47, 48)):
        logits_V = chain.append(ids_T[start:end])
        with torch.inference_mode():
            expected_V = model(ids_T[None, :end]).logits[0, -1]
        assert torch.allclose(logits_V, expected_V, atol=1e-4), f"after {end} rows"


def test_past_the_original_length_a_cache_and_the_whole_model_differ(tmp_path: Path) -> None:
    """Why the context ends there."""
    model = random_model(longrope("phi3"))
    save_checkpoint(tmp_path / "checkpoint", model)
    prepare(str(tmp_path / "checkpoint")).write(tmp_path / "out")
    chain = Chain([load_part(tmp_path / "out", "f")])
    ids_T = torch.randint(3, 100, (49,), generator=torch.Generator().manual_seed(3))
    chain.append(ids_T[:48])
    with torch.inference_mode():
        expected_V = model(ids_T[None]).logits[0, -1]
    assert not torch.allclose(chain.append(ids_T[48:]), expected_V, atol=1e-3)
