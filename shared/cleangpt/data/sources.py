"""Text sources: a file, a folder, a dataset on disk, or a registered name."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from cleangpt.data.python_documentation import documentation_texts
from cleangpt.data.stdlib_questions import Question, collect_questions
from cleangpt.errors import (
    EmptyTextError,
    PackageMissingError,
    TextColumnError,
    TextError,
    UndecodableTextError,
    UnknownTextSourceError,
)

SUFFIXES = (".txt", ".md", ".rst", ".py")
# `save_to_disk` of the datasets library writes these next to the data
_DATASET_FILE, _DATASET_DICT_FILE = "state.json", "dataset_dict.json"


def question_texts() -> Iterator[str]:
    """Every phrasing and answer of the interpreter's questions; phrasings have the space after the user marker."""
    for question in collect_questions():
        yield from (f" {phrasing}" for phrasing in question.phrasings)
        yield question.answer


TEXT_SOURCES: dict[str, Callable[[], Iterable[str]]] = {
    "python-documentation": documentation_texts,
    "stdlib-questions": question_texts,
}
# sources that are also conversations: train on them with `conversation_rows`, not `TokenBlocks`
CONVERSATION_SOURCES: dict[str, Callable[[], tuple[Question, ...]]] = {"stdlib-questions": collect_questions}


def register_text_source(name: str, texts: Callable[[], Iterable[str]]) -> None:
    """Makes `read_texts(name)` read `texts()`. Raises UnknownTextSourceError if the name is taken."""
    if TEXT_SOURCES.setdefault(name, texts) is not texts:
        raise UnknownTextSourceError(f"the name {name!r} is already taken by another source; choose another one")


def read_texts(
    source: str | Path, *, column: str = "text", split: str = "train", max_samples: int | None = None
) -> list[str]:
    """Reads the texts of `source`, at most `max_samples` of them.

    A registered name yields the texts registered for it; a file is one text; a folder that the datasets library
    wrote yields its `column`, from `split` if it has splits; any other folder yields its files in SUFFIXES,
    including those of subfolders, ordered by path. Texts of only white space are skipped. Raises
    UnknownTextSourceError, EmptyTextError, UndecodableTextError or TextColumnError.
    """
    path = Path(source)
    if made := TEXT_SOURCES.get(str(source)):
        texts: Iterable[str] = made()
    elif path.is_file():
        texts = [_decoded(path)]
    elif (path / _DATASET_FILE).exists() or (path / _DATASET_DICT_FILE).exists():
        texts = _dataset_texts(path, column, split)
    elif path.is_dir():
        texts = (_decoded(file) for file in _files(path))
    else:
        raise UnknownTextSourceError(
            f"{str(source)!r} is not a text source: expected a file, a folder, or one of {', '.join(TEXT_SOURCES)}"
        )
    found = list(islice((text for text in texts if text.strip()), max_samples))
    if not found:
        raise EmptyTextError(f"{source} holds no text but white space")
    return found


def read_conversations(source: str) -> tuple[Question, ...]:
    """The questions and answers of `source`. Raises UnknownTextSourceError if it holds none."""
    if made := CONVERSATION_SOURCES.get(source):
        return made()
    raise UnknownTextSourceError(
        f"{source!r} holds no conversations: expected {', '.join(CONVERSATION_SOURCES)}; read other sources as text"
    )


def _files(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES and path.is_file())
    if not files:
        raise EmptyTextError(f"{folder} holds no file that ends in {', '.join(SUFFIXES)}; name such a file or folder")
    return files


def _decoded(file: Path) -> str:
    content = file.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UndecodableTextError(
            f"{file} is not UTF-8: byte {error.start} is 0x{content[error.start]:02x} ({error.reason}); "
            "convert it, or take it out of the folder"
        ) from error


def _dataset_texts(folder: Path, column: str, split: str) -> Iterator[str]:
    try:
        from datasets import DatasetDict, load_from_disk  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        raise PackageMissingError(f"{folder} is a dataset; reading it needs a package: pip install datasets") from error
    try:
        data = load_from_disk(str(folder))
    except Exception as error:
        # a damaged folder can raise almost any exception
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise TextError(f"{folder} looks like a dataset, but cannot be read ({reason}); save it again") from error
    if isinstance(data, DatasetDict):
        if split not in data:
            raise TextColumnError(f"{folder} has no split {split!r}, it has {', '.join(data)}; name one of them")
        data = data[split]
    if column not in data.column_names:
        raise TextColumnError(
            f"{folder} has no column {column!r}, it has {', '.join(data.column_names)}; name one of them"
        )
    for text in data[column]:
        if not isinstance(text, str):
            raise TextColumnError(f"column {column!r} of {folder} holds {type(text).__name__}, expected text")
        yield text
