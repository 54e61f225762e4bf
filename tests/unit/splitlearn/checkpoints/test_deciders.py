from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llm_sepweight import dump, load
from llm_sepweight.safetensors_conversion import convert_safetensors_files
from splitlearn.checkpoints.deciders import decider_for
from splitlearn.errors import UnsupportedModel
from support.tiny_models import ARCHITECTURES, N_LAYERS, random_model, save_checkpoint, tiny_config


@pytest.mark.parametrize("model_type", list(ARCHITECTURES))
def test_every_tensor_of_a_model_comes_back_from_its_place(tmp_path: Path, model_type: str) -> None:
    model = random_model(tiny_config(model_type))
    state = model.state_dict()
    decide = decider_for(model.config)
    dump(decider=decide, state_dict=state, out_path=tmp_path)
    loaded = load(tmp_path, "f").to_dict()
    assert len(loaded) == len(state)
    for key, tensor in state.items():
        section, *rest = decide(key)
        place = ".".join(["begin" if section == "start" else section, *rest])
        assert torch.equal(loaded[place], tensor)
    assert len(load(tmp_path, f"0-{N_LAYERS}").mid) == N_LAYERS


def test_names_of_files_that_leave_out_the_models_own_prefix_are_known(tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path / "checkpoint", random_model(tiny_config("gpt2")))
    file = checkpoint / "model.safetensors"
    bare = {key.removeprefix("transformer."): tensor for key, tensor in load_file(file).items()}
    save_file(bare, file)
    convert_safetensors_files(in_path=checkpoint, out_path=tmp_path / "out", decider=decider_for(checkpoint))
    loaded = load(tmp_path / "out", "b 3-4").to_dict()
    assert torch.equal(loaded["begin.wte.weight"], bare["wte.weight"])
    assert torch.equal(loaded["mid.3.attn.c_attn.weight"], bare["h.3.attn.c_attn.weight"])


def test_tensors_that_the_model_stacks_in_memory_stay_in_their_layer(tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path / "checkpoint", random_model(tiny_config("mixtral")))
    names = [key for key in load_file(checkpoint / "model.safetensors") if "experts" in key]
    decide = decider_for(checkpoint)
    assert names
    assert all(decide(name)[:2] == ["mid", name.split(".")[2]] for name in names)


def test_a_tensor_of_no_part_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedModel, match=r"vision\.tower"):
        decider_for(tiny_config("llama"))("vision.tower")
