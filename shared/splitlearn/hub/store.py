"""The cache of named models: models/ORG/NAME/COMMIT/vCONVERSION, and which commit a revision was when last asked.

Below that: `weights`, a sepweight directory that grows; `source` and `headers`, the checkpoint's small files and the
headers of its weight files; `pieces`, what is on its way; `locks`. Locks are the system's: a process that dies holds
none.
"""

import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from filelock import FileLock, Timeout

from llm_sepweight import Manifest, SepweightError
from llm_sepweight.publishing import sync_directory, synced_file
from splitlearn.errors import NotCached
from splitlearn.hub.names import ModelName
from splitlearn.hub.stopping import Stop

CONVERSION = "1"
"""Of what converting makes of a checkpoint's tensors; another one is another model."""

_LOOK_AGAIN = 0.2
_REFS = "refs"
_SHORT_COMMIT = re.compile(r"[0-9a-f]{7,40}")


def default_root() -> Path:
    """$XDG_CACHE_HOME/splitlearn, or ~/.cache/splitlearn."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "splitlearn"


@dataclass(frozen=True)
class ModelFolder:
    """One model at one commit. Its folders are made by whoever writes to them first."""

    path: Path

    @property
    def weights(self) -> Path:
        """The sepweight directory."""
        return self.path / "weights"

    @property
    def source(self) -> Path:
        """The checkpoint's small files."""
        return self.path / "source"

    @property
    def headers(self) -> Path:
        """The headers of its weight files."""
        return self.path / "headers"

    @property
    def listing(self) -> Path:
        """What the hub said of the commit."""
        return self.path / "listing.json"

    def pieces(self, section: str) -> Path:
        """Where what is fetched for a section lies."""
        return self.path / "pieces" / section

    @property
    def _locks(self) -> Path:
        return self.path / "locks"

    @contextmanager
    def locked(self, name: str, stop: Stop) -> Iterator[None]:
        """Holds a lock against other processes, and waits for it. Raises FetchStopped."""
        self._locks.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self._locks / f"{name}.lock", thread_local=False)
        while True:
            stop.check()
            try:
                lock.acquire(timeout=_LOOK_AGAIN)
                break
            except Timeout:
                continue
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def unused(self) -> Iterator[bool]:
        """Whether nobody fetches into the folder; if so, nobody does while the context lasts."""
        with ExitStack() as held:
            for file in sorted(self._locks.glob("*.lock")) if self._locks.is_dir() else []:
                lock = FileLock(file, thread_local=False)
                try:
                    lock.acquire(blocking=False)
                except Timeout:
                    yield False
                    return
                held.callback(lock.release)
            yield True


@dataclass(frozen=True)
class CachedModel:
    """What the cache has of a model at a commit.

    Attributes:
        revisions: names that stood for the commit when they were last asked for.
        manifest: None if not even that is whole.
        size: bytes of all files.
    """

    repo: str
    commit: str
    revisions: tuple[str, ...]
    folder: ModelFolder
    manifest: Manifest | None
    size: int


@dataclass(frozen=True)
class Cache:
    """The cache in the directory `root`."""

    root: Path

    @classmethod
    def at(cls, root: Path | None) -> "Cache":
        """The cache in a directory, or the user's."""
        return cls(default_root() if root is None else root)

    def folder(self, repo: str, commit: str) -> ModelFolder:
        """Of a model at a commit, for this version's conversion."""
        return ModelFolder(self._repo(repo) / commit / f"v{CONVERSION}")

    def remember(self, name: ModelName, commit: str) -> None:
        """Notes what a revision stands for now."""
        path = self._ref(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, commit)

    def recall(self, name: ModelName) -> str | None:
        """The commit that a revision stood for when it was last asked for."""
        if name.is_pinned:
            return name.revision
        path = self._ref(name)
        return path.read_text(encoding="ascii") if path.is_file() else None

    def models(self) -> list[CachedModel]:
        """All, by name and commit."""
        found = sorted(self.root.glob("models/*/*/*/v*"))
        return [self._cached(ModelFolder(path)) for path in found if path.parent.name != _REFS]

    def remove(self, name: ModelName, *, all_commits: bool) -> list[CachedModel]:
        """Deletes a model's folders, of all commits or of the one that the revision stands for, and returns them.

        Args:
            name: whose revision may also be the first digits of a commit, seven at least.

        Raises:
            NotCached: there is none, or one is being fetched into.
        """
        commit = self.recall(name)
        begins = name.revision if _SHORT_COMMIT.fullmatch(name.revision) else commit

        def is_meant(each: CachedModel) -> bool:
            return all_commits or each.commit == commit or (begins is not None and each.commit.startswith(begins))

        gone = [each for each in self.models() if each.repo == name.repo and is_meant(each)]
        if not gone:
            raise NotCached(f"{name} is not in the cache {self.root}; `splitlearn cache ls` lists what is")
        for each in gone:
            with each.folder.unused() as unused:
                if not unused:
                    raise NotCached(f"{each.repo} is being fetched into {each.folder.path}; stop that first")
                shutil.rmtree(each.folder.path)
                _remove_empty(each.folder.path.parent)
            for revision in each.revisions:
                self._ref(ModelName(each.repo, revision)).unlink(missing_ok=True)
        _remove_empty(self._repo(name.repo) / _REFS)
        return gone

    def _cached(self, folder: ModelFolder) -> CachedModel:
        commit, repo = folder.path.parent.name, folder.path.parent.parent
        try:
            manifest = Manifest.read(folder.weights)
        except SepweightError:
            manifest = None
        refs = sorted(repo.glob(f"{_REFS}/[!.]*"))
        revisions = tuple(unquote(ref.name) for ref in refs if ref.read_text(encoding="ascii") == commit)
        size = sum(path.stat().st_size for path in folder.path.rglob("*") if path.is_file())
        return CachedModel(f"{repo.parent.name}/{repo.name}", commit, revisions, folder, manifest, size)

    def _repo(self, repo: str) -> Path:
        return self.root / "models" / repo

    def _ref(self, name: ModelName) -> Path:
        return self._repo(name.repo) / _REFS / quote(name.revision, safe="")


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file as a whole or not at all, also beside others that write it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    own = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    with synced_file(own) as file:
        file.write(content)
    own.replace(path)
    sync_directory(path.parent)


def write_text(path: Path, text: str) -> None:
    """As `write_bytes`."""
    write_bytes(path, text.encode())


def _remove_empty(folder: Path) -> None:
    """With those above it that are empty then, up to the folder of all models."""
    while folder.name != "models" and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent
