"""Whole models with the tokenizers that lie beside them."""

from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from cleangpt.model.folder import open_model
from cleangpt.tokenizers import load_tokenizer


def load_model(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """The whole model and its tokenizer, from a sepweight directory or a Hugging Face folder.

    The model comes in the dtype that it is stored in. Raises what `open_model` and `load_tokenizer` raise.
    """
    return open_model(folder), load_tokenizer(folder)
