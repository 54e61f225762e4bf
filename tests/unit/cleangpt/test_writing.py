import errno
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cleangpt.errors import NotWrittenError
from cleangpt.writing import named_where_not_written, replacing


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


_PROGRAM = """
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


def _small_files() -> None:
    """The disk takes no file above 100 kB."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


def test_a_write_that_the_system_cuts_off_leaves_the_checkpoint_of_before(tmp_path: Path) -> None:
    (tmp_path / "best.pt").write_bytes(b"old")
    command: list[Any] = [sys.executable, "-c", _PROGRAM, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=True, preexec_fn=_small_files)
    assert done.stdout.startswith(f"{tmp_path / 'best.pt'} could not be written (File too large)"), done
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == {"best.pt": b"old"}
