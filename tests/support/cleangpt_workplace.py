"""A working directory in which the hub's names are folders, and `cleangpt` in this process."""

import hashlib
import io
import shlex
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Tokenizer,
)

import cleangpt.model  # noqa: F401 - registers its models with the Auto classes
from cleangpt.cli.__main__ import main

_SENTENCES = (
    "Once upon a time there was a little cat that lived in a house by the sea.",
    "The cat saw a red boat and wanted to know where it came from.",
    "A kind old man took the cat on board and showed it the wide water.",
    "In the evening they came home, and the cat told its friends all about it.",
)
STORIES = [" ".join(_SENTENCES[number % 4 :]) for number in range(48)]
SMALL = ("--n-layer", 1, "--n-head", 2, "--n-embd", 16, "--block-size", 16, "--batch-size", 4, "--max-steps", 2)


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


def run(*words: object) -> Ran:
    """`cleangpt` in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(word) for word in words])
    return Ran(code, out.getvalue(), err.getvalue())


def run_documented(command: str, *more: object) -> Ran:
    """A command as it stands in the document, and what stands for its defaults there."""
    words = shlex.split(command)
    assert words[0] == "cleangpt"
    ran = run(*words[1:], *more)
    assert ran.code == 0, ran.err
    return ran


def contents(folder: Path) -> dict[str, str]:
    """Every file below the folder, with the digest of what is in it."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def save_gpt2(folder: Path) -> None:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learning = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(STORIES, learning)
    tokenizer = GPT2Tokenizer(tokenizer_object=backend)
    tokenizer.save_pretrained(folder)
    end = tokenizer.eos_token_id
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 32, "n_positions": 32}
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), bos_token_id=end, eos_token_id=end, **sizes)
    GPT2LMHeadModel(config).save_pretrained(folder)


def save_dataset(folder: Path, column: str) -> None:
    from datasets import Dataset  # type: ignore[import-untyped]

    Dataset.from_dict({column: STORIES}).save_to_disk(str(folder))
