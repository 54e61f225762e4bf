"""Tokenizers that come as a vocabulary alone, as many checkpoints bring them."""

import base64
import json
from pathlib import Path

import pytest
import sentencepiece

from client_service.tokenizer import TextCodec
from support.tiny_models import tiny_config

TEXT = "the quick brown fox jumps over the lazy dog"


def trained(folder: Path, kind: str) -> bytes:
    """A small model of sentencepiece."""
    (folder / "text.txt").write_text("\n".join(f"{TEXT} number {n}" for n in range(200)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"), model_prefix=str(folder / kind), vocab_size=60, model_type=kind, minloglevel=2
    )
    return (folder / f"{kind}.model").read_bytes()


@pytest.mark.parametrize(
    ("kind", "file", "tokenizer_class"),
    [
        ("unigram", "spiece.model", "T5Tokenizer"),
        ("unigram", "spiece.model", "XLNetTokenizer"),
        ("bpe", "tokenizer.model", "LlamaTokenizer"),
        ("bpe", "tokenizer.model", None),
    ],
)
async def test_a_model_of_sentencepiece_is_read(
    tmp_path: Path, kind: str, file: str, tokenizer_class: str | None
) -> None:
    (folder := tmp_path / "weights").mkdir()
    (folder / file).write_bytes(trained(tmp_path, kind))
    if tokenizer_class is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": tokenizer_class}))
    codec = TextCodec(folder, tiny_config("llama"))
    try:
        assert codec.decode(await codec.tokenize("the quick fox")) == "the quick fox"
    finally:
        codec.close()


async def test_a_vocabulary_of_tiktoken_is_read(tmp_path: Path) -> None:
    tokens = [bytes([n]) for n in range(256)] + [b"th", b"the", b" q"]
    lines = [f"{base64.b64encode(token).decode()} {rank}" for rank, token in enumerate(tokens)]
    (tmp_path / "tokenizer.model").write_text("\n".join(lines))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    codec = TextCodec(tmp_path, tiny_config("llama"))
    try:
        assert codec.decode(await codec.tokenize("the quick fox")) == "the quick fox"
    finally:
        codec.close()
