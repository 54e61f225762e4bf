"""Vocabularies of one token in each line."""

from pathlib import Path

import pytest
from transformers import PreTrainedModel

from splitlearn.checkpoints.convert import prepare
from splitlearn.checkpoints.vocabulary_lines import maybe_cut_off
from support.tiny_models import save_checkpoint

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{number}" for number in range(95))]
VOCABULARY = "".join(f"{token}\n" for token in TOKENS)


@pytest.mark.parametrize("name", ["vocab.txt", "qwen.tiktoken", "tiktoken.model", "sub/vocab.txt"])
def test_half_a_vocabulary_is_named_and_a_whole_one_is_not(name: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text(VOCABULARY)
    assert maybe_cut_off({name: path}, 100) == maybe_cut_off({name: path}, 110) == []
    path.write_text(VOCABULARY[: len(VOCABULARY) // 2])
    (line,) = maybe_cut_off({name: path}, 100)
    assert line.startswith(f"{name} has 5")
    assert line.endswith("download it again")
    assert maybe_cut_off({name: path.read_bytes()}, 100) == [line]


def test_lines_of_other_files_are_not_counted_nor_those_that_are_not_read(tmp_path: Path) -> None:
    few = b"one\ntwo\n"
    assert maybe_cut_off({"merges.txt": few, "dict.txt": few, "tokenizer.model": few}, 100) == []
    assert maybe_cut_off({"vocab.txt": few, "tokenizer.json": b"{}"}, 100) == []


def test_convert_says_that_a_vocabulary_may_be_cut_off(tmp_path: Path, tiny_llama: PreTrainedModel) -> None:
    folder = save_checkpoint(tmp_path / "checkpoint", tiny_llama, chat=False)
    (folder / "tokenizer.json").unlink()
    n_embeddings = tiny_llama.config.vocab_size
    lines = [f"word{number}\n" for number in range(n_embeddings)]
    (folder / "vocab.txt").write_text("".join(lines))
    assert prepare(str(folder)).notes() == []
    (folder / "vocab.txt").write_text("".join(lines[: n_embeddings // 2]))
    assert prepare(str(folder)).notes() == maybe_cut_off({"vocab.txt": folder / "vocab.txt"}, n_embeddings) != []
