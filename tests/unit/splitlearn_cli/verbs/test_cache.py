from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llm_sepweight import Manifest, TensorSource
from llm_sepweight.growing import list_section, write_section
from splitlearn.hub.names import ModelName
from splitlearn.hub.stopping import Stop
from splitlearn.hub.store import Cache, write_bytes

Run = Callable[..., Any]
FIRST, SECOND = "1" * 40, "2" * 40


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """A trunk's layers of one model at two commits, and one that is not whole."""
    cache = Cache(tmp_path / "cache")
    for commit, revision in ((FIRST, "main"), (SECOND, "v2")):
        folder = cache.folder("org/tiny", commit)
        folder.weights.mkdir(parents=True)
        Manifest(1, "tiny", {}, "float32", 5, {}, origin={"commit": commit}).write(folder.weights)
        cache.remember(ModelName("org/tiny", revision), commit)
    weights = cache.folder("org/tiny", FIRST).weights
    for section in ("mid.00001", "mid.00002"):
        list_section(weights, section, write_section(weights, section, [TensorSource.of("w", torch.ones(1000))]))
    write_bytes(cache.folder("org/begun", FIRST).listing, b"{}")
    return cache


def test_ls_shows_what_is_here_of_which_model_at_which_commit(splitlearn: Run, cache: Cache) -> None:
    ran = splitlearn("cache", "ls", "--cache-dir", cache.root)
    assert ran.code == 0, ran.err
    rows = [line.split() for line in ran.out.splitlines() if line]
    assert rows[0] == ["MODEL", "REVISION", "COMMIT", "HERE", "SIZE"]
    assert rows[1][:5] == ["org/begun", "-", "1" * 12, "nothing", "whole"]
    assert rows[2][:6] == ["org/tiny", "main", "1" * 12, "1-3", "of", "5"]
    assert rows[2][6:] == ["8.67", "kB"] or rows[2][7] == "kB"
    assert rows[3][:7] == ["org/tiny", "v2", "2" * 12, "no", "layers", "of", "5"]
    assert str(cache.root) in ran.out.splitlines()[-1]


def test_an_empty_cache_is_said_to_be_empty(splitlearn: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLITLEARN_CACHE_DIR", str(tmp_path / "none"))
    ran = splitlearn("cache", "ls")
    assert (ran.code, ran.out) == (0, f"{tmp_path / 'none'}: no models\n")


def test_rm_removes_a_revision_a_commit_by_its_first_digits_or_all(splitlearn: Run, cache: Cache) -> None:
    ran = splitlearn("cache", "rm", "org/tiny@v2", "--cache-dir", cache.root)
    assert ran.code == 0, ran.err
    assert ran.out.startswith(f"removed org/tiny at {'2' * 12}, ")
    assert [each.commit for each in cache.models()] == [FIRST, FIRST]
    ran = splitlearn("cache", "rm", f"org/begun@{'1' * 12}", "org/tiny", "--cache-dir", cache.root)
    assert ran.out.count("removed") == 2
    assert cache.models() == []


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("rm",), 2, "rm needs names"),
        (("rm", "org"), 2, "'org' is no name of a model"),
        (("rm", "org/typo"), 1, "org/typo is not in the cache"),
        (("rm", "org/tiny@v9"), 1, "org/tiny@v9 is not in the cache"),
        (("ls", "org/tiny"), 2, "it takes no names"),
        (("clear",), 2, "ACTION (or SPLITLEARN_CACHE_ACTION): input should be 'ls' or 'rm', got 'clear'"),
        ((), 2, "ACTION is missing"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_removes_nothing(
    splitlearn: Run, cache: Cache, words: tuple[str, ...], code: int, message: str
) -> None:
    ran = splitlearn("cache", *words, "--cache-dir", cache.root)
    assert ran.code == code
    assert message in ran.err
    assert ran.err.count("\n") == 1
    assert len(cache.models()) == 3


def test_what_is_being_fetched_is_not_removed(splitlearn: Run, cache: Cache) -> None:
    with cache.folder("org/tiny", FIRST).locked("mid.00003", Stop()):
        ran = splitlearn("cache", "rm", "org/tiny@main", "--cache-dir", cache.root)
    assert ran.code == 1
    assert "is being fetched" in ran.err
