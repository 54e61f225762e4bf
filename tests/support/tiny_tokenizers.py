"""Tokenizers of every kind that writes tokens in a way of its own, small and made here."""

from collections.abc import Callable

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from support.tiny_models import tiny_tokenizer

_SPECIAL = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "additional_special_tokens": ["<|turn|>"]}
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def byte_level() -> PreTrainedTokenizerFast:
    """Tokens are pieces of UTF-8, as in gpt2, llama 3 and qwen."""
    fast = tiny_tokenizer()
    fast.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    return fast


def byte_fallback() -> PreTrainedTokenizerFast:
    """Tokens are words that begin with their space, and bytes for everything else, as in llama 2 and gemma."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁", *_LETTERS, ","]
    vocabulary = {word: i for i, word in enumerate([*words, "▁t", "he", "▁the"])}
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **_SPECIAL)


def metaspace() -> PreTrainedTokenizerFast:
    """Likely pieces of words behind their space, as in t5 and xglm."""
    words = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("▁the", -1.0), ("▁", -3.0), ("é", -4.0), ("ü", -4.0)]
    words += [(letter, -5.0) for letter in _LETTERS + ",."]
    tokenizer = Tokenizer(models.Unigram(words, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **_SPECIAL)


def wordpiece() -> PreTrainedTokenizerFast:
    """Words without their spaces, and what continues one behind ##, as in bert."""
    words = ["<unk>", "<s>", "</s>", "the", "fox", ",", ".", "'", *_LETTERS, *(f"##{letter}" for letter in _LETTERS)]
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **_SPECIAL)


KINDS: tuple[Callable[[], PreTrainedTokenizerFast], ...] = (byte_level, byte_fallback, metaspace, wordpiece)
