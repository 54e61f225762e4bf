import os
import stat
from pathlib import Path

import pytest

from splitlearn_comm.key_files import CERTIFICATE_MODE, KEY_MODE, write_whole


@pytest.fixture(params=[0o000, 0o077, 0o777], ids=oct)
def umask(request: pytest.FixtureRequest) -> object:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize("mode", [KEY_MODE, CERTIFICATE_MODE])
def test_the_permissions_are_those_asked_for_whatever_the_umask_is(tmp_path: Path, mode: int) -> None:
    write_whole(tmp_path / "file", b"content", mode, replace=False)

    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode
    assert (tmp_path / "file").read_bytes() == b"content"


def test_a_file_that_is_there_stays_unless_it_may_be_replaced(tmp_path: Path) -> None:
    write_whole(tmp_path / "file", b"first", KEY_MODE, replace=False)

    with pytest.raises(FileExistsError, match=str(tmp_path / "file")):
        write_whole(tmp_path / "file", b"second", KEY_MODE, replace=False)
    assert (tmp_path / "file").read_bytes() == b"first"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_replaced_file_is_another_one_so_that_readers_keep_what_they_have_opened(tmp_path: Path) -> None:
    write_whole(tmp_path / "file", b"first", KEY_MODE, replace=False)
    with (tmp_path / "file").open("rb") as reader:
        write_whole(tmp_path / "file", b"second", KEY_MODE, replace=True)

        assert reader.read() == b"first"
    assert (tmp_path / "file").read_bytes() == b"second"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_failure_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_whole(tmp_path / "file", b"first", KEY_MODE, replace=False)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(tmp_path / "file", b"second", KEY_MODE, replace=True)
    assert [each.read_bytes() for each in tmp_path.iterdir()] == [b"first"]
