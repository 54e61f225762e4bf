"""The merges of a byte-pair tokenizer, beside its vocabulary."""

import json
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from llm_sepweight import Manifest
from splitlearn.checkpoints.convert import prepare
from splitlearn.checkpoints.merges import check_merges
from splitlearn.errors import BadCheckpoint
from support.tiny_models import save_checkpoint


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_llama: PreTrainedModel) -> Path:
    """With the tokenizer in two files, as in GPT-2's days."""
    folder = save_checkpoint(tmp_path / "checkpoint", tiny_llama, chat=False)
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [each if isinstance(each, str) else " ".join(each) for each in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    return folder


def cut(checkpoint: Path, share: float) -> None:
    content = (checkpoint / "merges.txt").read_text()
    (checkpoint / "merges.txt").write_text(content[: int(share * len(content))])


def test_whole_merges_are_taken(checkpoint: Path, tmp_path: Path) -> None:
    prepare(str(checkpoint)).write(tmp_path / "out")
    assert Manifest.read(tmp_path / "out")
    assert (tmp_path / "out" / "merges.txt").read_bytes() == (checkpoint / "merges.txt").read_bytes()


@pytest.mark.parametrize(("share", "said"), [(0.0, "is empty"), (0.5, r"has \d+ merges for the \d+ tokens of vocab")])
def test_empty_and_half_merges_are_refused_by_name(checkpoint: Path, share: float, said: str) -> None:
    cut(checkpoint, share)
    with pytest.raises(BadCheckpoint, match=rf"merges\.txt {said}"):
        prepare(str(checkpoint))


def test_merges_that_no_reader_takes_are_not_counted(checkpoint: Path) -> None:
    cut(checkpoint, 0.5)
    (checkpoint / "tokenizer.json").write_text("{}")
    check_merges(checkpoint, json.loads((checkpoint / "vocab.json").read_text()))


def test_special_tokens_and_single_characters_need_no_merge(tmp_path: Path) -> None:
    (tmp_path / "merges.txt").write_text("a b\n")
    check_merges(tmp_path, {"a": 0, "b": 1, "ab": 2, **{f"<extra_{n}>": n for n in range(3, 50)}, "[MASK]": 50})


def test_merges_that_are_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "merges.txt").write_bytes(b"\xff\xfe a b")
    with pytest.raises(BadCheckpoint, match=r"merges\.txt is not text"):
        check_merges(tmp_path, {"ab": 0})
