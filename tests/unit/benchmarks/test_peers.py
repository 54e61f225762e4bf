"""What the peers of a benchmark get is the model that we run, and goals are compared round by round."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from safetensors.torch import load_file

from splitlearn.checkpoints.gguf.checkpoint import GgufCheckpoint
from tests.benchmarks import contenders
from tests.benchmarks.contenders import LLAMA, QWEN, ModelShape, make_weights
from tests.benchmarks.peers import gguf_file
from tests.benchmarks.peers.__main__ import DECODE, TABLES, medians, rows


def small(shape: ModelShape, folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModelShape:
    for module, name in ((contenders, "CHECKPOINTS"), (contenders, "WORK"), (gguf_file, "WORK")):
        monkeypatch.setattr(module, name, folder)
    sizes = {"vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    return replace(shape, config={**shape.config, **sizes, **heads})


@pytest.mark.parametrize("shape", [QWEN, LLAMA], ids=lambda shape: shape.name)
def test_the_gguf_file_holds_the_checkpoints_model(
    shape: ModelShape, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = small(shape, tmp_path, monkeypatch)
    checkpoint, _ = make_weights(shape)
    file = GgufCheckpoint(gguf_file.make_gguf(shape, Kind.BF16))
    found = {name: stored.read() for name, stored in file.tensors(torch.bfloat16).items()}
    expected = load_file(checkpoint / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        # norms are fp32 in such a file
        assert torch.equal(found[name].bfloat16(), tensor), name


def test_ratios_are_those_of_the_rounds() -> None:
    table = TABLES["bf16"]
    measures = [DECODE, *(goal.measure for goal in table.goals)]
    theirs = {measure: [1.0, 3.0] for measure in measures}
    rates = {"ours": {measure: [2.0, 9.0] for measure in measures}, "llama.cpp": theirs, "vLLM": theirs}
    assert [row.ratios for row in rows(table, rates)] == [[2.0, 3.0]] * len(table.goals)
    assert "| ours | 5.50 |" in medians(rates)
