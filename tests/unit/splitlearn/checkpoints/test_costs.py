"""What a stored model takes when it is served."""

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoConfig

from llm_sepweight import Manifest, MissingFileError
from splitlearn.backends.cpu.kernels import kernels
from splitlearn.backends.cpu.linear import NativeInt4Linear
from splitlearn.backends.cpu.packing import pack
from splitlearn.calibration.directory import Rounding, quantize
from splitlearn.checkpoints.costs import StoredModel, read_stored
from splitlearn.checkpoints.load import load_part
from splitlearn.choices import Quantization
from splitlearn.model.placement import ModelCosts
from support.tiny_models import N_LAYERS, VOCABULARY, random_model, save_sepweight, tiny_config


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


def held(module: nn.Module) -> int:
    """Bytes of the linear layers' weights in 4 bits."""
    packed = [each for each in module.modules() if isinstance(each, NativeInt4Linear)]
    return sum(tensor.nbytes for each in packed for tensor in each.descriptor.tensors)


@pytest.mark.skipif(kernels() is None, reason="other layers hold them then")
@pytest.mark.parametrize(
    "rounding", [None, Rounding(), Rounding(zero_points=False), Rounding(64), Rounding(64, zero_points=False)]
)
@pytest.mark.parametrize("is_tied", [False, True])
def test_weights_of_4_bits_are_counted_to_the_byte(rounding: Rounding | None, is_tied: bool, tmp_path: Path) -> None:
    # with groups of 64, those of down_proj are rounded at load
    config = tiny_config("llama", tie_word_embeddings=is_tied, vocab_size=VOCABULARY)
    plain = weights = save_sepweight(tmp_path, random_model(config), dtype="bfloat16")
    if rounding is not None:
        weights = tmp_path / "out"
        quantize(plain, weights, [list(range(3, 30))], rounding)
    stored, part = costs(read_stored(plain)), load_part(weights, "3-5 e", keep_int4=True)
    pack(part, "int4")
    layer, _ = part.model.model.layers
    found = costs(read_stored(weights), quantization="int4")
    assert found.layers[3] == stored.layers[3] - 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 96 * 64) + held(layer)
    assert found.end == stored.end - 2 * VOCABULARY * 64 + held(part.model.lm_head)
    assert found.begin == stored.begin


def test_a_directory_that_lacks_a_file_with_weights_of_4_bits_is_refused(tmp_path: Path) -> None:
    weights = save_sepweight(tmp_path, random_model(tiny_config("llama")))
    quantize(weights, tmp_path / "out", [[3, 4, 5]])
    (tmp_path / "out" / "mid.00002.safetensors").unlink()
    with pytest.raises(MissingFileError, match=r"mid\.00002"):
        read_stored(tmp_path / "out")


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
