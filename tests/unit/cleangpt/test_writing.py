import errno
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cleangpt.errors import NotWrittenError
from cleangpt.writing import named_where_not_written, replacing, replacing_files


def test_a_file_is_replaced_when_all_of_the_new_one_is_written(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "a.json"
    for text in ("first", "second"):
        with replacing(file) as partial:
            partial.write_text(text)
            assert not file.exists() or file.read_text() == "first"
        assert file.read_text() == text
    assert [each.name for each in file.parent.iterdir()] == ["a.json"]


def test_a_full_disk_is_named_with_the_file_and_leaves_the_old_one_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.json"
    file.write_text("old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    said = r"a\.json could not be written \(No space left on device\): .*intact"
    with pytest.raises(NotWrittenError, match=said), replacing(file) as partial:
        partial.write_text("new")
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]
    assert file.read_text() == "old"


def test_an_error_that_is_not_the_disks_stays_what_it_is_and_leaves_no_partial_file(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "a") as partial:
        partial.write_text("new").conjugate() // 0
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = "model could not be written .*Not a directory"
    with pytest.raises(NotWrittenError, match=said), named_where_not_written(tmp_path / "model"):
        (tmp_path / "file" / "inside").write_text("")


@pytest.mark.parametrize(
    "error", [RuntimeError("size mismatch for weight"), ValueError("no such field"), KeyError("weight")]
)
def test_a_mistake_in_the_program_is_not_taken_for_one_of_the_disk(tmp_path: Path, error: Exception) -> None:
    def write() -> None:
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            # even while an error of the disk is on its way
            with named_where_not_written(tmp_path):
                raise error from None

    with pytest.raises(type(error)) as raised:
        write()
    assert raised.value is error


def test_what_libraries_in_rust_say_of_the_disk_is_its_error_whatever_its_class(tmp_path: Path) -> None:
    said = Exception("Error while serializing: I/O error: No space left on device (os error 28)")
    with (
        pytest.raises(NotWrittenError, match=r"model could not be written \(No space left on device\)"),
        named_where_not_written(tmp_path / "model"),
    ):
        raise said


def test_files_of_a_folder_are_replaced_together_and_others_stay(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    for text in ("first", "second"):
        with replacing_files(folder) as partial:
            (partial / "more").mkdir()
            for name in ("config.json", "model.safetensors", "more/notes.txt"):
                (partial / name).write_text(text)
            assert not (folder / "config.json").exists() or (folder / "config.json").read_text() == "first"
        (folder / "history.json").write_text("kept")
    found = {str(each.relative_to(folder)): each.read_text() for each in folder.rglob("*") if each.is_file()}
    names = ("config.json", "model.safetensors", "more/notes.txt")
    assert found == {**dict.fromkeys(names, "second"), "history.json": "kept"}
    assert sorted(each.name for each in folder.iterdir()) == [
        "config.json",
        "history.json",
        "model.safetensors",
        "more",
    ]


def test_weights_come_last_so_that_a_kill_in_between_leaves_none_that_others_are_new_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[str] = []
    replace = Path.replace

    def noted(source: Path, target: Path) -> Path:
        moved.append(target.name)
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", noted)
    with replacing_files(tmp_path / "model") as partial:
        for name in ("model.safetensors", "config.json", "tokenizer.json"):
            (partial / name).touch()
    assert moved == ["config.json", "tokenizer.json", "model.safetensors"]


def test_a_folder_that_an_error_left_unfinished_is_as_before(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("old")
    for folder in (tmp_path / "model", tmp_path / "new"):
        with pytest.raises(ZeroDivisionError), replacing_files(folder) as partial:
            (partial / "config.json").write_text("new").conjugate() // 0
    assert [each.name for each in tmp_path.rglob("*")] == ["model", "config.json"]
    assert (tmp_path / "model" / "config.json").read_text() == "old"


_CHECKPOINT = """
import sys
from pathlib import Path
import torch
from cleangpt.errors import NotWrittenError
from cleangpt.trainers.checkpoint import Checkpoints, save_best
try:
    save_best(Checkpoints(Path(sys.argv[1])), torch.nn.Linear(1000, 1000), 1)
except NotWrittenError as error:
    print(error)
"""
_TORCH = """
import sys
from pathlib import Path
import torch
from cleangpt.errors import NotWrittenError
from cleangpt.writing import replacing
try:
    with replacing(Path(sys.argv[1]) / "best.pt") as partial:
        torch.save(torch.zeros(100_000), partial)
except NotWrittenError as error:
    print(error)
"""
_MODEL = """
import sys
from pathlib import Path
from cleangpt.config import GPTConfig
from cleangpt.errors import NotWrittenError
from cleangpt.model import get_model
from cleangpt.writing import replacing_files
model = get_model("Vanilla", config=GPTConfig(vocab_size=100, n_layer=1, n_head=1, n_embd=100, block_size=8))
try:
    with replacing_files(Path(sys.argv[1])) as partial:
        model.save_pretrained(partial)
except NotWrittenError as error:
    print(error)
"""
_TOKENIZER = """
import sys
from pathlib import Path
from cleangpt.errors import NotWrittenError
from cleangpt.tokenizers import create_tokenizer
from cleangpt.writing import replacing_files
tokenizer = create_tokenizer("bpe", texts=[" ".join(f"{n}" for n in range(10_000))], vocab_size=4000)
try:
    with replacing_files(Path(sys.argv[1])) as partial:
        tokenizer.save_pretrained(partial)
except NotWrittenError as error:
    print(error)
"""


def _small_files() -> None:
    """The disk takes no file above 100 kB."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


def _cut_off(program: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    command: list[Any] = [sys.executable, "-c", program, folder]
    return subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=_small_files)


@pytest.mark.parametrize("program", [_MODEL, _TOKENIZER], ids=["model", "tokenizer"])
def test_a_model_that_the_system_cuts_off_leaves_the_folder_of_before(tmp_path: Path, program: str) -> None:
    (tmp_path / "config.json").write_text("old")
    done = _cut_off(program, tmp_path)
    said = f"{tmp_path} could not be written (File too large): what it held before is intact"
    assert done.stdout.startswith(said), done
    assert {each.name: each.read_text() for each in tmp_path.iterdir()} == {"config.json": "old"}


@pytest.mark.parametrize(
    ("program", "reason"), [(_CHECKPOINT, "File too large"), (_TORCH, "")], ids=["checkpoint", "torch's own writer"]
)
def test_a_write_that_the_system_cuts_off_leaves_the_file_of_before(tmp_path: Path, program: str, reason: str) -> None:
    (tmp_path / "best.pt").write_bytes(b"old")
    done = _cut_off(program, tmp_path)
    assert done.stdout.startswith(f"{tmp_path / 'best.pt'} could not be written ("), done
    assert reason in done.stdout
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == {"best.pt": b"old"}
