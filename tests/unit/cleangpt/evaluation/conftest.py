"""Folders of a student and its teacher that read the same ids, and a text for both."""

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from cleangpt.config import GPTConfig
from cleangpt.model import get_model
from cleangpt.tokenizers import BaseTokenizer, create_tokenizer
from support.small_gpts import shaken

STORY = "A cat sat on a mat. The dog saw it. " * 40


def small(kind: str, n_layer: int, n_embd: int, vocab_size: int) -> PreTrainedModel:
    torch.manual_seed(n_layer)
    config = GPTConfig(n_layer=n_layer, n_head=2, n_embd=n_embd, vocab_size=vocab_size, block_size=32)
    return shaken(get_model(kind, config=config)).eval()


@pytest.fixture
def tokenizer() -> BaseTokenizer:
    return create_tokenizer("character", texts=[STORY])


@pytest.fixture
def teacher(tokenizer: BaseTokenizer) -> PreTrainedModel:
    return small("Vanilla", 4, 16, tokenizer.vocab_size)


@pytest.fixture
def student(tokenizer: BaseTokenizer) -> PreTrainedModel:
    return small("Factored", 2, 12, tokenizer.vocab_size)


@pytest.fixture
def story(tmp_path: Path) -> Path:
    file = tmp_path / "story.txt"
    file.write_text(STORY)
    return file
