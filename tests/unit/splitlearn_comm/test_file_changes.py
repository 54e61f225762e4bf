import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from splitlearn_comm import file_changes
from splitlearn_comm.errors import BadToken
from splitlearn_comm.file_changes import WatchedFiles
from support.running_split import until
from support.tls import replace


def watched(*paths: Path | None) -> WatchedFiles[str]:
    def read() -> str:
        try:
            found = " ".join(path.read_text() for path in paths if path is not None)
        except OSError as error:
            raise BadToken(f"{error.filename}: {error.strerror}") from error
        if "bad" in found:
            raise BadToken("it is bad")
        return found

    return WatchedFiles("words", paths, read, BadToken)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    paths = tmp_path / "one", tmp_path / "two"
    for path in paths:
        path.write_text("old")
    return paths


def test_a_change_of_one_file_is_seen_once(files: tuple[Path, Path]) -> None:
    words = watched(files[0], None, files[1])
    assert (words.value, words.look()) == ("old old", False)
    replace(files[1], b"new")
    assert [words.look(), words.look()] == [True, False]
    assert words.value == "old new"


@pytest.mark.parametrize("damage", [b"bad", None])
def test_files_that_cannot_be_used_change_nothing_and_are_told_once(
    files: tuple[Path, Path], damage: bytes | None
) -> None:
    words = watched(*files)
    with capture_logs() as lines:
        if damage is None:
            files[0].unlink()
        else:
            replace(files[0], damage)
        assert [words.look(), words.look()] == [False, False]
    assert words.value == "old old"
    assert [(line["log_level"], line["what"]) for line in lines] == [("warning", "words")]
    replace(files[0], b"good")
    assert words.look()
    assert words.value == "good old"


def test_files_that_cannot_be_used_at_first_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadToken, match="nothing: No such file"):
        watched(tmp_path / "nothing")


def test_a_file_that_is_linked_to_elsewhere_is_followed(tmp_path: Path) -> None:
    """Kubernetes replaces the files of a Secret by moving a link."""
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    data = tmp_path / "..data"
    data.symlink_to("1")
    words = watched(data / "file")
    (tmp_path / "next").symlink_to("2")
    (tmp_path / "next").replace(data)
    assert words.look()
    assert words.value == "2"


async def test_changes_come_one_after_the_other(files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_changes, "LOOK_SECONDS", 0.01)
    words, seen = watched(*files), list[str]()

    async def watch() -> None:
        async for value in words.changes():
            seen.append(value)

    watching = asyncio.create_task(watch())
    for number in range(3):
        replace(files[0], f"{number}".encode())
        await until(lambda number=number: len(seen) == number + 1)  # type: ignore[misc]
    watching.cancel()
    assert seen == ["0 old", "1 old", "2 old"]


async def test_without_a_file_there_is_nothing_to_wait_for() -> None:
    assert [value async for value in watched(None).changes()] == []
