"""Tokenizers behind one interface; all of them save in Hugging Face's format."""

from cleangpt.tokenizers.base import BaseTokenizer, TokenizerRequest
from cleangpt.tokenizers.factory import TokenizerFactory, create_tokenizer, register_tokenizer
from cleangpt.tokenizers.hugging_face import load_tokenizer

__all__ = [
    "BaseTokenizer",
    "TokenizerFactory",
    "TokenizerRequest",
    "create_tokenizer",
    "load_tokenizer",
    "register_tokenizer",
]
