"""What is measured on the meta device is what a part with weights takes."""

from pathlib import Path

import pytest
from transformers import AutoConfig

from architectures.small_configs import WIDTH, small_config
from splitlearn.checkpoints.load import load_part
from splitlearn.model.footprint import footprint
from splitlearn.runner.select import runner_for
from support.tiny_models import CONTEXT, N_LAYERS, random_model, save_sepweight, tiny_config


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "gpt2", "falcon", "mixtral"])
def test_rows_are_as_large_as_those_that_a_runner_holds(model_type: str, tmp_path: Path) -> None:
    part = load_part(save_sepweight(tmp_path, random_model(tiny_config(model_type))), "1-4")

    found = footprint(tiny_config(model_type))

    assert found.is_measured
    assert sum(layer.row for layer in found.layers[1:4]) * 4 == runner_for(part).row_bytes
    assert len(found.layers) == N_LAYERS
    assert (found.row_width, found.context_length) == (part.hidden_size, part.context_length)


def test_linear_layers_are_counted_and_the_head_apart() -> None:
    found = footprint(tiny_config("llama"))

    # queries, keys, values and output, then gate, up and down
    shapes = ((64, 64), (32, 64), (32, 64), (64, 64), (96, 64), (96, 64), (64, 96))
    assert {layer.linear for layer in found.layers} == {shapes}
    assert found.head == ((384, 64),)
    assert found.widest == 96
    assert found.context_length == CONTEXT


def test_a_recurrent_layer_keeps_a_state_and_no_rows() -> None:
    config = AutoConfig.for_model(
        "mamba", hidden_size=64, num_hidden_layers=N_LAYERS, state_size=8, vocab_size=384, intermediate_size=128
    )

    layers = footprint(config).layers

    # convolution 128 x 4, state 128 x 8
    assert {(layer.row, layer.state) for layer in layers} == {(0, 128 * 4 + 128 * 8)}


def test_a_model_that_cannot_run_without_values_is_taken_for_as_large_as_it_can_be() -> None:
    # its router looks for the rows of each expert
    found = footprint(small_config("dbrx"))

    assert not found.is_measured
    assert [layer.row for layer in found.layers] == [2 * WIDTH] * len(found.layers)
