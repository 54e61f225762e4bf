from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from cleangpt.errors import ModelFolderError
from cleangpt.model.folder import open_model
from llm_sepweight.errors import SepweightError
from splitlearn.checkpoints.convert import prepare


@pytest.fixture
def hf_folder(tmp_path: Path, tiny_model: PreTrainedModel) -> Path:
    # the fewest layers that can be cut
    sizes = {**tiny_model.config.to_dict(), "num_hidden_layers": 3, "layer_types": None}
    model = AutoModelForCausalLM.from_config(type(tiny_model.config)(**sizes))
    model.to(torch.bfloat16).save_pretrained(tmp_path / "hf")
    return tmp_path / "hf"


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])


def test_a_model_opens_alike_from_its_hugging_face_folder_and_from_sepweight(hf_folder: Path, tmp_path: Path) -> None:
    prepare(str(hf_folder)).write(tmp_path / "sepweight")
    whole, parts = open_model(hf_folder), open_model(tmp_path / "sepweight")
    ids_BT = torch.tensor([[2, 30, 31, 1, 3]])
    with torch.inference_mode():
        assert torch.equal(whole(ids_BT).logits, parts(ids_BT).logits)
    assert whole.dtype == parts.dtype == torch.bfloat16
    assert not whole.training
    assert not parts.training


@pytest.mark.parametrize("tied", [True, False])
def test_weights_that_are_tied_stay_so_after_a_cast_and_no_others_become_it(tmp_path: Path, tied: bool) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 3, "head_dim": 4}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    config = AutoConfig.for_model("qwen3", **sizes, **heads, tie_word_embeddings=tied)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "hf")
    prepare(str(tmp_path / "hf")).write(tmp_path / "sepweight")
    for folder in ("hf", "sepweight"):
        model = open_model(tmp_path / folder).double()
        assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied
        assert len(list(model.parameters())) == len(set(model.state_dict())) - tied


def test_a_folder_without_a_model_is_refused_with_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match=r"manifest\.json.*config\.json"):
        open_model(tmp_path)


@pytest.mark.parametrize("harm", ["cut", "gone", "no weight", "pickled", "no JSON", "other shape", "no such shape"])
def test_a_damaged_hugging_face_folder_is_refused(hf_folder: Path, harm: str) -> None:
    weights, config = hf_folder / "model.safetensors", hf_folder / "config.json"
    if harm == "cut":
        _cut(weights)
    elif harm == "gone":
        weights.unlink()
    elif harm == "no weight":
        save_file({}, weights, metadata={"format": "pt"})
    elif harm == "pickled":
        weights.rename(hf_folder / "pytorch_model.bin").write_bytes(b"dear")
    elif harm == "no JSON":
        config.write_text("dear")
    elif harm == "no such shape":
        config.write_text(config.read_text().replace('"hidden_size": 32', '"hidden_size": "wide"'))
    else:
        config.write_text(config.read_text().replace('"intermediate_size": 64', '"intermediate_size": 65'))
    with pytest.raises(ModelFolderError, match="no model that can be read"):
        open_model(hf_folder)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite_are_refused_by_name(hf_folder: Path, tmp_path: Path, value: float) -> None:
    model = AutoModelForCausalLM.from_pretrained(hf_folder)
    with torch.no_grad():
        model.model.norm.weight[3] = value
    model.save_pretrained(hf_folder)
    prepare(str(hf_folder)).write(tmp_path / "sepweight")
    for folder in (hf_folder, tmp_path / "sepweight"):
        with pytest.raises(ModelFolderError, match=r"can be used: model\.norm\.weight is infinite or NaN in places"):
            open_model(folder)


def test_a_damaged_sepweight_directory_is_refused(hf_folder: Path, tmp_path: Path) -> None:
    prepare(str(hf_folder)).write(tmp_path / "sepweight")
    _cut(next((tmp_path / "sepweight").glob("mid.*.safetensors")))
    with pytest.raises(SepweightError):
        open_model(tmp_path / "sepweight")
