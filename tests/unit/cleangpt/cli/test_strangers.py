"""Folders of strangers: their code is not run, whatever is on stdin, and what is wrong with them is one line."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

Run = Callable[..., Any]

_CODE = """
from pathlib import Path
Path({mark!r}).touch()
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
class StrangerConfig(GPT2Config):
    model_type = "stranger"
class StrangerModel(GPT2LMHeadModel):
    config_class = StrangerConfig
class StrangerTokenizer(PreTrainedTokenizerFast):
    pass
"""


@pytest.fixture
def folder(tmp_path: Path, tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast) -> Path:
    tiny_model.save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    """Is there once the stranger's code has run."""
    return tmp_path / "ran"


@pytest.fixture
def stranger(folder: Path, ran: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that wants to be read by its own code, in front of somebody who says yes to everything."""
    (folder / "code.py").write_text(_CODE.format(mark=str(ran)))
    edit(
        folder / "config.json",
        model_type="stranger",
        architectures=["StrangerModel"],
        auto_map={"AutoConfig": "code.StrangerConfig", "AutoModelForCausalLM": "code.StrangerModel"},
    )
    edit(
        folder / "tokenizer_config.json",
        tokenizer_class="StrangerTokenizer",
        auto_map={"AutoTokenizer": [None, "code.StrangerTokenizer"]},
    )
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 10))
    return folder


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    "words",
    [
        ["generate", "{folder}", "--prompt", "Turn to"],
        ["accuracy", "{folder}"],
        ["evaluate", "{folder}", "--data", "{story}"],
        ["evaluate", "{folder}", "--data", "{story}", "--teacher", "{folder}"],
        ["tokens", "--data", "{story}", "--tokenizer_type", "{folder}"],
        ["tokens", "--data", "{story}", "--tokenizer_type", "{folder}", "--prune", "{out}"],
        ["train", "--data", "{story}", "--tokenizer_type", "{folder}", "--out", "{out}", "--max_steps", "1"],
        ["distill", "--teacher_model_name_or_path", "{folder}", "--dataset_name", "{story}", "--output_dir", "{out}"],
    ],
    ids=" ".join,
)
def test_the_code_of_strangers_is_not_run_whoever_says_yes(
    cleangpt: Run, stranger: Path, story: Path, ran: Path, tmp_path: Path, words: list[str]
) -> None:
    places = {"folder": stranger, "story": story, "out": tmp_path / "out"}
    result = cleangpt(*(word.format(**places) for word in words))
    assert not ran.exists()
    assert result.code == 1, result
    last = result.err.splitlines()[-1]
    assert "untrusted code is not run" in last
    assert str(stranger) in last
    assert "trust_remote_code" not in result.err


def test_a_type_that_transformers_has_is_read_without_the_code_beside_it(
    cleangpt: Run, folder: Path, ran: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "code.py").write_text(_CODE.format(mark=str(ran)))
    edit(folder / "config.json", auto_map={"AutoModelForCausalLM": "code.StrangerModel"})
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 10))
    assert cleangpt("generate", folder, "--prompt", "Turn to", "--max-tokens", 2).code == 0
    assert not ran.exists()


class _Exploit:
    def __reduce__(self) -> Any:
        return (print, ("this must never be printed",))


@pytest.mark.parametrize("content", [b"", b"dear", b"PK\x03\x04", "exploit"])
def test_a_pickle_that_is_no_tensors_is_one_line_that_offers_no_unsafe_way(
    cleangpt: Run, folder: Path, content: bytes | str
) -> None:
    (folder / "model.safetensors").unlink()
    file = folder / "pytorch_model.bin"
    if isinstance(content, str):
        torch.save({"a": _Exploit()}, file)
    else:
        file.write_bytes(content)
    result = cleangpt("generate", folder, "--prompt", "Turn to")
    assert result.code == 1
    assert "never be printed" not in result.out
    (line,) = [line for line in result.err.splitlines() if line.startswith("cleangpt: error")]
    assert str(folder) in line
    assert "weights_only" not in result.err
    assert "a bug" not in result.err


_FOREIGN = [
    b"",
    b"[]",
    b"null",
    b"\xff\xfe",
    b"{",
    b"{}",
    b"[" * 100_000,
    b'{"model_type": 3}',
    b'{"model_type": "llama", "vocab_size": -1}',
    b'{"model_type": "llama", "dtype": "nonsense"}',
    b'{"model_type": "llama", "rope_scaling": {"type": 3}}',
    b'{"added_tokens": [], "model": {}}',
]


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_file_that_is_empty_foreign_or_half_is_one_line_and_no_bug(cleangpt: Run, folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    for content in (*_FOREIGN, whole[: len(whole) // 2]):
        (folder / name).write_bytes(content)
        # what is missing from a file may have a default: then there is nothing to say
        result = cleangpt("generate", folder, "--prompt", "Turn to", "--max-tokens", 1)
        assert result.code in (0, 1), (content, result)
        if result.code:
            last = result.err.splitlines()[-1]
            assert last.startswith(f"cleangpt: error: {folder}"), (content, result)
            assert len(last) < 1000
        if result.code and content in (b"", b"[]", b"\xff\xfe", b"{"):
            assert name in last


def test_a_weights_file_that_is_cut_short_is_named(cleangpt: Run, folder: Path) -> None:
    file = folder / "model.safetensors"
    for kept in (0, 4, 100, -1):
        file.write_bytes(file.read_bytes()[:kept])
        result = cleangpt("generate", folder, "--prompt", "Turn to")
        assert (result.code, "model.safetensors" in result.err.splitlines()[-1]) == (1, True), result
