import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from cleangpt.demo_model import TRAINED_ON_FILE, demo_config, evaluate, load_model, main, other_text
from cleangpt.errors import ModelFolderError
from splitlearn.convert import prepare


@pytest.fixture
def hf_folder(tmp_path: Path, tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast) -> Path:
    tiny_model.to(torch.bfloat16).save_pretrained(tmp_path / "hf")
    tiny_tokenizer.save_pretrained(tmp_path / "hf")
    return tmp_path / "hf"


def test_the_shipped_model_fits_into_ten_megabytes_with_its_tokenizer(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(demo_config(tiny_tokenizer))
    assert 2 * sum(each.numel() for each in model.parameters()) < 9_000_000


def test_a_model_loads_alike_from_its_hugging_face_folder_and_from_sepweight(hf_folder: Path, tmp_path: Path) -> None:
    prepare(str(hf_folder)).write(tmp_path / "sepweight")
    whole, parts = load_model(hf_folder)[0], load_model(tmp_path / "sepweight")[0]
    ids_BT = torch.tensor([[2, 30, 31, 1, 3]])
    with torch.inference_mode():
        assert torch.equal(whole(ids_BT).logits, parts(ids_BT).logits)
    assert whole.dtype == parts.dtype == torch.bfloat16


def test_a_folder_without_a_model_is_refused_with_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match=r"manifest\.json.*config\.json"):
        evaluate(tmp_path)


def test_the_command_line_reports_failure_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--evaluate", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_text_of_another_interpreter_is_named(tmp_path: Path) -> None:
    assert other_text(tmp_path) is None
    trained_on = {"python": "3.99.1", "questions": 7, "digest": "0"}
    (tmp_path / TRAINED_ON_FILE).write_text(json.dumps(trained_on))
    note = other_text(tmp_path)
    assert note is not None
    assert "Python 3.99.1 (7 subjects)" in note
