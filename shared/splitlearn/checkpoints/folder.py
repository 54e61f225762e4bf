"""A checkpoint's folder: where it is, what it is called, and its files, none of which lies outside it."""

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any, TypeVar

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from splitlearn.checkpoints.merges import check_merges
from splitlearn.checkpoints.tokenizer_files import MODULES, TOKENIZER_FILES
from splitlearn.errors import BadCheckpoint

J = TypeVar("J", dict[str, Any], list[Any])

CONFIG_FILE = "config.json"
# what says that weights are quantised, or are an adapter, is looked for in all of them
_SIDE_FILES = ["*config.json", "*.index.json", *TOKENIZER_FILES]
# a second copy of the weights, under names that transformers does not read
_SECOND_COPIES = ["consolidated*", "original/*"]
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_LONGEST_NAME = 200

_WEB_PAGE = "is a web page, as a download leaves it that went wrong; download it again"
# What a file begins with, in lower case, that is not what its name says.
_FOREIGN = {
    b"version https://git-lfs": "is a Git LFS pointer in place of the file; run `git lfs pull` in its folder",
    b"<!doctype": _WEB_PAGE,
    b"<html": _WEB_PAGE,
    b"<?xml": _WEB_PAGE,
    b"gguf": "is a GGUF file; give it a name that ends in .gguf, and convert it by itself",
    b"\x1f\x8b": "is a gzip archive; unpack it",
}


def find_checkpoint(source: str) -> Path:
    """The local folder `source`, or that of the model with this id, downloaded if need be.

    Args:
        source: a folder, or the id of a model on the Hugging Face hub, "org/name" or "org/name@revision".

    Raises:
        BadCheckpoint: neither is to be had.
    """
    if os.path.isdir(source):  # noqa: PTH112 (Path.is_dir raises for names that no file system takes)
        return Path(source)
    if source.lower().endswith(".gguf"):
        there = os.path.exists(source)  # noqa: PTH110 (as above)
        raise BadCheckpoint(
            f"{source} is a GGUF file, which only `splitlearn convert` and `plan` read"
            if there
            else f"there is no file {source}"
        )
    if os.path.exists(source):  # noqa: PTH110 (as above)
        raise BadCheckpoint(f"{source} is a file; give the folder that holds it, with its config.json")
    name, _, revision = source.partition("@")
    if _HUB_ID.fullmatch(name) is None or len(name) > _LONGEST_NAME:
        raise BadCheckpoint(
            f"{source!r} is neither a local folder nor a model that could be had from the hub: "
            "there is no such folder, and ids look like org/name"
        )
    try:
        return _download(name, revision or None)
    except LocalEntryNotFoundError as error:
        reason = "no such folder; and it is not in this machine's cache, and the hub could not be reached"
        raise BadCheckpoint(_not_had(source, reason)) from error
    except (HFValidationError, HfHubHTTPError, OSError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise BadCheckpoint(_not_had(source, lines[0] if lines else type(error).__name__)) from error


def _not_had(source: str, reason: str) -> str:
    return f"{source!r} is neither a local folder nor a model that could be had from the hub: {reason}"


def _download(model: str, revision: str | None) -> Path:
    def fetch(weights: str) -> Path:
        patterns = [*_SIDE_FILES, weights]
        return Path(
            snapshot_download(model, revision=revision, allow_patterns=patterns, ignore_patterns=_SECOND_COPIES)
        )

    downloaded = fetch("*.safetensors")
    return downloaded if any(downloaded.glob("*.safetensors")) else fetch("pytorch_model*.bin")


def checkpoint_name(source: str, folder: Path) -> str:
    """What a model is called that came from `source` and lies in `folder`: the last part of its id, or the folder's
    name; a folder of the hub's cache is named by a commit, and the model by a folder above it.

    Raises:
        BadCheckpoint: the folder's name cannot be one of a model.
    """
    if not os.path.isdir(source):  # noqa: PTH112 (as in `find_checkpoint`)
        return check_name(source.partition("@")[0].rpartition("/")[2])
    resolved = folder.resolve()
    cached = _cached_model(resolved)
    return check_name(resolved.name if cached is None else cached.name.rpartition("--")[2])


def check_name(name: str) -> str:
    """The name itself, which is shown in logs, compared on both ends and stored as UTF-8.

    Raises:
        BadCheckpoint: it has no characters, too many, or some that cannot be shown.
    """
    if not name.strip() or not name.isprintable() or len(name) > _LONGEST_NAME:
        raise BadCheckpoint(
            f"a model cannot be called {name[:_LONGEST_NAME]!r}; give it a name of at most {_LONGEST_NAME} printable "
            "characters (--name)"
        )
    return name


def _cached_model(folder: Path) -> Path | None:
    """The folder of a model in the hub's cache, where `folder` (resolved) is one of its snapshots."""
    is_snapshot = folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--")
    return folder.parent.parent if is_snapshot else None


def inside(folder: Path, name: str, named_by: str = "") -> Path:
    """The path of the checkpoint's file `name`, which need not exist.

    Args:
        folder: the checkpoint's.
        name: relative to it, perhaps out of a file that a stranger wrote.
        named_by: the file that names it.

    Raises:
        BadCheckpoint: the name, or a link under it, leads out of the folder. Links of the hub's cache lead to its
            blobs, and are taken.
    """
    pure = PurePath(name)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts or "\0" in name:
        raise BadCheckpoint(f"{named_by or folder} names {name!r}, which is no file of the folder; download it again")
    path, own = folder / name, folder.resolve()
    cached = _cached_model(own)
    homes = [own] if cached is None else [own, cached / "blobs"]
    try:
        target = path.resolve()
    except (OSError, RuntimeError) as error:
        raise BadCheckpoint(f"{path} is a link that leads to itself; download it again") from error
    if not any(target.is_relative_to(home) for home in homes):
        raise BadCheckpoint(f"{path} is a link out of the checkpoint's folder, to {target}; put the file itself there")
    return path


def tokenizer_names(folder: Path) -> list[str]:
    """The names in the folder, relative to it, that are those of a tokenizer's files."""
    found = {path for pattern in TOKENIZER_FILES for path in folder.glob(pattern)}
    return sorted(path.relative_to(folder).as_posix() for path in found)


def tokenizer_files(folder: Path) -> list[str]:
    """The names of the tokenizer's files that the folder holds, checked as far as can be seen without a tokenizer.

    Raises:
        BadCheckpoint: one is a link out of the folder, is empty or half, or is not what its name says.
    """
    kept = [name for name in tokenizer_names(folder) if inside(folder, name).is_file()]
    for name in kept:
        if name == MODULES:
            _read_json(folder / name, list, "a JSON list")
        elif name.endswith(".json"):
            values = read_json_object(folder / name)
            if name == "vocab.json":
                check_merges(folder, values)
        elif (reason := foreign(folder / name)) is not None:
            raise BadCheckpoint(f"{folder / name} {reason}")
    return kept


def refuse_checkpoint(folder: Path) -> None:
    """Raises BadCheckpoint if there is a checkpoint in the folder, whose tokenizer a conversion would replace."""
    if (folder / CONFIG_FILE).is_file() and tokenizer_names(folder):
        raise BadCheckpoint(
            f"{folder} holds a checkpoint of its own, and its tokenizer would be replaced; name another directory"
        )


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json.

    Raises:
        BadCheckpoint: it is missing, or not a JSON object.
    """
    path = inside(folder, CONFIG_FILE)
    if not path.exists():
        found = _other_formats(folder)
        raise BadCheckpoint(f"{folder} has no config.json; it is not a Hugging Face checkpoint{found}")
    return read_json_object(path)


def _other_formats(folder: Path) -> str:
    return "; give the .gguf file itself" if any(folder.glob("*.gguf")) else ""


def read_json_object(path: Path, kind: str = "a JSON object") -> dict[str, Any]:
    """The object in a JSON file, which is called `kind` in errors.

    Raises:
        BadCheckpoint: it cannot be read as one.
    """
    return _read_json(path, dict, kind)


def _read_json(path: Path, form: type[J], kind: str) -> J:
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        reason = foreign(path) or f"is not {kind}: {error}; download it again"
        raise BadCheckpoint(f"{path} {reason}") from error
    except OSError as error:
        raise BadCheckpoint(f"{path} cannot be read: {error.strerror}") from error
    if not isinstance(values, form):
        raise BadCheckpoint(f"{path} is not {kind}, but a {type(values).__name__}; download it again")
    return values


def foreign(path: Path) -> str | None:
    """What a file is that is not what its name says, and what to do; None if it does not show."""
    with path.open("rb") as file:
        begins = file.read(512)
    if not begins:
        return "is empty; download it again"
    begins = begins.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return next((reason for begin, reason in _FOREIGN.items() if begins.startswith(begin)), None)


def shorten(names: Sequence[str], most: int = 4) -> str:
    """Names of tensors in one line: those that differ in numbers only are one item, and of many items the first."""
    patterns: dict[str, list[str]] = {}
    for name in names:
        patterns.setdefault(re.sub(r"\d+", "*", name), []).append(name)
    items = list(_items(patterns))
    rest = sum(count for _, count in items[most:])
    shown = ", ".join(text for text, _ in items[:most])
    return f"{shown} and {rest} more" if rest else shown


def _items(patterns: dict[str, list[str]]) -> Iterator[tuple[str, int]]:
    for pattern, names in patterns.items():
        yield (names[0] if len(names) == 1 else f"{pattern} ({len(names)})"), len(names)
