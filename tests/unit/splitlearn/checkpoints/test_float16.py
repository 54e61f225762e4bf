"""Conversion to a dtype that holds fewer numbers than the checkpoint's."""

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from llm_sepweight import BadTensorError
from splitlearn.checkpoints.convert import prepare
from support.tiny_models import save_checkpoint


def test_numbers_beyond_float16_are_refused_by_the_tensor_and_leave_nothing(
    tmp_path: Path, tiny_llama: PreTrainedModel
) -> None:
    checkpoint = save_checkpoint(tmp_path / "checkpoint", tiny_llama)
    state = load_file(checkpoint / "model.safetensors")
    state["model.layers.2.mlp.up_proj.weight"][3, 5] = -7e4
    save_file(state, checkpoint / "model.safetensors")
    with pytest.raises(BadTensorError, match=r"'mlp\.up_proj\.weight' has numbers beyond float16, up to 7e\+04"):
        prepare(str(checkpoint), dtype="float16").write(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    prepare(str(checkpoint), dtype="bfloat16").write(tmp_path / "out")
