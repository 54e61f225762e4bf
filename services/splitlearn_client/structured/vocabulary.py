"""The served model's vocabulary as llguidance reads it: the bytes of every token, and which tokens end an answer."""

from collections.abc import Set
from copy import copy
from typing import Any

from llguidance import LLTokenizer
from transformers import PreTrainedTokenizerBase


class NoVocabulary(Exception):
    """llguidance cannot read this tokenizer; with the reason."""


def read_vocabulary(tokenizer: PreTrainedTokenizerBase, n_tokens: int, end_tokens: Set[int]) -> LLTokenizer:
    """Takes seconds for a large vocabulary. Blocks.

    Args:
        n_tokens: how many tokens the model has, with or without a text.
        end_tokens: the model's own. llguidance needs one: without any it is given the tokenizer's last token, which
            then stands for no text.

    Raises:
        NoVocabulary: it is not one of the Rust tokenizers, or of a kind that llguidance does not know.
    """
    fast: Any = getattr(tokenizer, "backend_tokenizer", None)
    if fast is None:
        raise NoVocabulary("its tokenizer is written in Python; add a tokenizer.json to its files")
    plain = copy(fast)
    # of prompts; they would be a part of what llguidance reads
    plain.no_padding()
    plain.no_truncation()
    n_words = plain.get_vocab_size(with_added_tokens=True)
    known = sorted(token for token in end_tokens if 0 <= token < n_words)
    try:
        return LLTokenizer(plain.to_str(), n_vocab=max(n_tokens, n_words), eos_token=known or [n_words - 1])
    except (ValueError, RuntimeError) as error:
        raise NoVocabulary(" ".join(str(error).split())[:300]) from error
