"""Loads whole models together with their tokenizers."""

from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from cleangpt.model.folder import open_model
from cleangpt.tokenizers import load_tokenizer


def load_model(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Loads a whole model and its tokenizer from a sepweight directory or a Hugging Face folder.

    The model has its stored dtype. Raises the errors of `open_model` and `load_tokenizer`.
    """
    return open_model(folder), load_tokenizer(folder)
