"""What a stored model takes when it is served."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from llm_sepweight import Manifest
from splitlearn.backends.cpu.packing import pack
from splitlearn.checkpoints.costs import StoredModel, read_stored
from splitlearn.checkpoints.load import load_part
from splitlearn.choices import Quantization
from splitlearn.model.placement import ModelCosts
from support.tiny_models import N_LAYERS, random_model, save_sepweight, tiny_config


def costs(stored: StoredModel, **changes: object) -> ModelCosts:
    wanted = {"sessions": 2, "context": 256, "quantization": "none", "batched_tokens": 512}
    return stored.costs(**{**wanted, **changes})  # type: ignore[arg-type]


def test_weights_are_those_of_the_files(tiny_weights: Path) -> None:
    found, files = costs(read_stored(tiny_weights)), Manifest.read(tiny_weights).files

    assert found.layers == tuple(files[f"mid.{i:05d}"].size for i in range(N_LAYERS))
    assert (found.begin, found.end) == (files["begin"].size, files["end"].size)


def test_sessions_hold_whole_pages(tiny_weights: Path) -> None:
    stored = read_stored(tiny_weights)

    # keys and values of 2 heads of 16 numbers in fp32
    assert costs(stored, sessions=3, context=256).cache == (3 * 256 * 2 * 2 * 16 * 4,) * N_LAYERS
    assert costs(stored, sessions=3, context=257).cache == costs(stored, sessions=6, context=256).cache
    assert costs(stored, sessions=3, context=1).cache == costs(stored, sessions=3, context=256).cache


def test_a_step_moves_a_row_of_each_session(tiny_weights: Path) -> None:
    assert costs(read_stored(tiny_weights), sessions=5).hop == 5 * 64 * 4


def test_more_rows_in_a_step_take_more_beside_the_weights(tiny_weights: Path) -> None:
    stored = read_stored(tiny_weights)

    assert costs(stored, batched_tokens=1024).reserved > costs(stored, batched_tokens=512).reserved > 2**29


def test_recurrent_states_count_once_for_each_session(tmp_path: Path) -> None:
    config = AutoConfig.for_model(
        "mamba", hidden_size=64, num_hidden_layers=N_LAYERS, state_size=8, vocab_size=384, intermediate_size=128
    )
    stored = read_stored(save_sepweight(tmp_path, random_model(config)))

    assert costs(stored, sessions=3).cache == costs(stored, sessions=3, context=4096).cache
    assert costs(stored, sessions=3).cache == (3 * (128 * 4 + 128 * 8) * 4,) * N_LAYERS


@pytest.mark.parametrize(("quantization", "share"), [("int8", 0.7), ("int4", 0.45)])
@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_rounded_weights_take_what_packed_layers_take(
    model_type: str, quantization: Quantization, share: float, tmp_path: Path
) -> None:
    model = random_model(tiny_config(model_type)).to(torch.bfloat16)
    weights = save_sepweight(tmp_path, model)
    part = load_part(weights, "1-2")
    stored = costs(read_stored(weights)).layers[1]

    packed = pack(part, quantization).n_bytes
    expected = costs(read_stored(weights), quantization=quantization).layers[1]

    # norms, biases and the file's header stay
    assert packed < expected < packed + 0.25 * stored
    assert expected < share * stored
