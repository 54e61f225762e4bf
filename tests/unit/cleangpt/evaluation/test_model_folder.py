from pathlib import Path

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from cleangpt.errors import ModelFolderError, TokenizerFilesError
from cleangpt.evaluation.model_folder import load_model


@pytest.fixture
def hf_folder(tmp_path: Path, tiny_model: PreTrainedModel) -> Path:
    tiny_model.save_pretrained(tmp_path)
    return tmp_path


def test_a_model_comes_with_the_tokenizer_beside_it(hf_folder: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    tiny_tokenizer.save_pretrained(hf_folder)
    model, tokenizer = load_model(hf_folder)
    assert model.config.vocab_size == 300
    assert tokenizer.get_vocab() == tiny_tokenizer.get_vocab()


def test_a_model_without_its_tokenizer_is_refused(hf_folder: Path) -> None:
    with pytest.raises(TokenizerFilesError):
        load_model(hf_folder)


def test_a_damaged_model_is_refused(hf_folder: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    tiny_tokenizer.save_pretrained(hf_folder)
    weights = hf_folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ModelFolderError, match="no model that can be read"):
        load_model(hf_folder)
