import threading
from pathlib import Path

import pytest

from llm_sepweight import FileEntry, Manifest
from splitlearn.errors import FetchStopped, NotCached
from splitlearn.hub.names import ModelName
from splitlearn.hub.stopping import Stop
from splitlearn.hub.store import Cache, ModelFolder, default_root, write_bytes

FIRST, SECOND = "1" * 40, "2" * 40


def make(cache: Cache, repo: str, commit: str, *revisions: str) -> ModelFolder:
    folder = cache.folder(repo, commit)
    folder.weights.mkdir(parents=True)
    entry = FileEntry("mid.00001.safetensors", 3, "a" * 64)
    Manifest(1, "tiny", {}, "float32", 5, {"mid.00001": entry}, origin={"commit": commit}).write(folder.weights)
    (folder.weights / entry.file).write_bytes(b"abc")
    for revision in revisions:
        cache.remember(ModelName(repo, revision), commit)
    return folder


def test_the_users_cache_is_where_the_system_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_root() == tmp_path / "splitlearn"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_root() == tmp_path / ".cache" / "splitlearn"
    assert Cache.at(None).root == default_root()
    assert Cache.at(tmp_path).root == tmp_path


def test_names_with_dashes_and_slashes_never_share_a_folder(cache: Cache) -> None:
    assert cache.folder("a--b/c", FIRST) != cache.folder("a/b--c", FIRST)
    one, other = ModelName("a/b", "x/y"), ModelName("a/b", "x%2Fy")
    cache.remember(one, FIRST)
    assert cache.recall(other) is None
    assert cache.recall(one) == FIRST


def test_it_recalls_what_a_revision_was_and_that_a_commit_is_itself(cache: Cache) -> None:
    assert cache.recall(ModelName("a/b")) is None
    assert cache.recall(ModelName("a/b", SECOND)) == SECOND
    cache.remember(ModelName("a/b"), FIRST)
    cache.remember(ModelName("a/b"), SECOND)
    assert cache.recall(ModelName("a/b")) == SECOND


def test_it_lists_models_with_their_revisions_and_sizes(cache: Cache) -> None:
    assert cache.models() == []
    make(cache, "org/b", FIRST, "main", "refs/pr/1")
    make(cache, "org/a", FIRST)
    unfinished = cache.folder("org/a", SECOND)
    write_bytes(unfinished.listing, b"{}")
    found = cache.models()
    assert [(each.repo, each.commit, each.revisions) for each in found] == [
        ("org/a", FIRST, ()),
        ("org/a", SECOND, ()),
        ("org/b", FIRST, ("main", "refs/pr/1")),
    ]
    assert found[0].manifest is not None
    assert found[1].manifest is None
    assert found[1].size == 2
    assert found[2].size > 3


def test_it_removes_one_commit_or_all_and_nothing_else(cache: Cache) -> None:
    first = make(cache, "org/a", FIRST, "main")
    second = make(cache, "org/a", SECOND, "v2")
    other = make(cache, "org/b", FIRST, "main")
    assert [each.commit for each in cache.remove(ModelName("org/a", "v2"), all_commits=False)] == [SECOND]
    assert (first.path.exists(), second.path.exists()) == (True, False)
    assert cache.recall(ModelName("org/a", "v2")) is None
    with pytest.raises(NotCached, match=r"org/a@v2 is not in the cache .*`splitlearn cache ls`"):
        cache.remove(ModelName("org/a", "v2"), all_commits=False)
    cache.remove(ModelName("org/a"), all_commits=True)
    assert [each.name for each in (cache.root / "models" / "org").iterdir()] == ["b"]
    assert other.path.exists()
    cache.remove(ModelName("org/b"), all_commits=True)
    assert list((cache.root / "models").iterdir()) == []


def test_what_is_being_fetched_into_is_not_removed(cache: Cache) -> None:
    folder = make(cache, "org/a", FIRST, "main")
    with folder.locked("mid.00002", Stop()), pytest.raises(NotCached, match="is being fetched into"):
        cache.remove(ModelName("org/a"), all_commits=True)
    assert folder.weights.exists()
    cache.remove(ModelName("org/a"), all_commits=True)


def test_a_lock_is_held_by_one_and_waited_for_until_it_is_stopped(cache: Cache) -> None:
    folder = make(cache, "org/a", FIRST)
    stop, entered = Stop(), threading.Event()
    refused: list[Exception] = []

    def wait() -> None:
        entered.set()
        try:
            with folder.locked("source", stop):
                pass
        except FetchStopped as error:
            refused.append(error)

    with folder.locked("source", Stop()), folder.locked("begin", Stop()):
        waiting = threading.Thread(target=wait)
        waiting.start()
        assert entered.wait(10)
        stop.set()
        waiting.join(10)
    assert len(refused) == 1
    with folder.locked("source", Stop()):
        pass


def test_a_file_is_written_as_a_whole_by_many_at_once(tmp_path: Path) -> None:
    contents = [bytes([number]) * 50_000 for number in range(8)]
    writers = [threading.Thread(target=write_bytes, args=(tmp_path / "file", each)) for each in contents]
    for each in writers:
        each.start()
    for each in writers:
        each.join()
    assert (tmp_path / "file").read_bytes() in contents
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
