from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from cleangpt.errors import ModelFolderError
from cleangpt.evaluation.model_folder import load_model
from splitlearn.convert import prepare


@pytest.fixture
def hf_folder(tmp_path: Path, tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast) -> Path:
    tiny_model.to(torch.bfloat16).save_pretrained(tmp_path / "hf")
    tiny_tokenizer.save_pretrained(tmp_path / "hf")
    return tmp_path / "hf"


def test_a_model_loads_alike_from_its_hugging_face_folder_and_from_sepweight(hf_folder: Path, tmp_path: Path) -> None:
    prepare(str(hf_folder)).write(tmp_path / "sepweight")
    whole, parts = load_model(hf_folder)[0], load_model(tmp_path / "sepweight")[0]
    ids_BT = torch.tensor([[2, 30, 31, 1, 3]])
    with torch.inference_mode():
        assert torch.equal(whole(ids_BT).logits, parts(ids_BT).logits)
    assert whole.dtype == parts.dtype == torch.bfloat16


def test_a_folder_without_a_model_is_refused_with_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match=r"manifest\.json.*config\.json"):
        load_model(tmp_path)
