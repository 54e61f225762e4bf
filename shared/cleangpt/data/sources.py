"""Sources of text and of conversations: a file, a folder, a dataset on disk, or a registered name."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from cleangpt.data.messages import Chat, Conversation, Conversations, chat_of
from cleangpt.data.python_documentation import documentation_texts
from cleangpt.data.records import Value, dataset, is_dataset, table_reader
from cleangpt.data.stdlib_questions import collect_questions
from cleangpt.errors import (
    EmptyTextError,
    TextColumnError,
    UndecodableTextError,
    UnknownTextSourceError,
    UsageError,
)

# of a folder's files: not .json, which is more often a setting than a text
SUFFIXES: Final = (".txt", ".md", ".rst", ".py", ".jsonl", ".jsonl.gz", ".parquet")
# nearly half of the questions are alone in a row or come first
_QUESTIONS_PER_ROW: Final = (1, 1, 1, 1, 1, 1, 2, 4, 8)


def _questions() -> Conversations:
    return Conversations(collect_questions(), per_row=_QUESTIONS_PER_ROW, is_memorized=True)


TEXT_SOURCES: dict[str, Callable[[], Iterable[str]]] = {"python-documentation": documentation_texts}
CONVERSATION_SOURCES: dict[str, Callable[[], Conversations]] = {"stdlib-questions": _questions}


def register_text_source(name: str, texts: Callable[[], Iterable[str]]) -> None:
    """Makes `read_texts(name)` read `texts()`. Raises UnknownTextSourceError if the name is taken."""
    if name in CONVERSATION_SOURCES or TEXT_SOURCES.setdefault(name, texts) is not texts:
        raise UnknownTextSourceError(f"the name {name!r} is already taken by another source; choose another one")


def read_source(
    source: str | Path, *, column: str = "text", split: str = "train", max_samples: int | None = None
) -> list[str] | Conversations:
    """Reads the texts or conversations of `source`, at most `max_samples` of them.

    A registered name yields what is registered for it. A file of JSON lines (.jsonl, .jsonl.gz, .json) or a Parquet
    file yields the `column` of its records, and so does a folder that the datasets library wrote, from `split` if it
    has splits; any other file is one text. Any other folder yields its files in SUFFIXES, including those of
    subfolders, ordered by path. A column of texts yields texts, and one of lists of messages conversations; see
    `chat_of`. Texts of only white space are skipped.

    Raises:
        UnknownTextSourceError, EmptyTextError, UndecodableTextError, RecordError, TextColumnError: see each error.
    """
    if conversations := CONVERSATION_SOURCES.get(str(source)):
        return conversations().first(max_samples)
    texts: list[str] = []
    chats: list[Conversation] = []
    for where, value in _values(source, column, split):
        found = _interpreted(value, where, column)
        if (texts and isinstance(found, Chat)) or (chats and isinstance(found, str)):
            raise TextColumnError(
                f"{where} holds {'text' if chats else 'messages'}, and before it {source} holds "
                f"{'messages' if chats else 'text'}; give a source that holds only one of them"
            )
        if isinstance(found, Chat):
            chats.append(found)
        elif found.strip():
            texts.append(found)
        if len(texts) + len(chats) == max_samples:
            break
    if chats:
        return Conversations(tuple(chats))
    if not texts:
        raise EmptyTextError(f"{source} holds no text but white space; name another source or column")
    return texts


def read_texts(
    source: str | Path, *, column: str = "text", split: str = "train", max_samples: int | None = None
) -> list[str]:
    """The texts of `source`; of conversations, the texts of their messages. See `read_source`."""
    return texts_of(read_source(source, column=column, split=split, max_samples=max_samples))


def read_conversations(
    source: str | Path, *, column: str = "messages", split: str = "train", max_samples: int | None = None
) -> Conversations:
    """The conversations of `source`; see `read_source`. Raises TextColumnError too if it holds running text."""
    found = read_source(source, column=column, split=split, max_samples=max_samples)
    if not isinstance(found, Conversations):
        raise TextColumnError(
            f"{source} holds no conversations: expected {', '.join(CONVERSATION_SOURCES)}, or a column with lists of "
            "messages; read other sources as text"
        )
    return found


def texts_of(found: list[str] | Conversations) -> list[str]:
    """The texts, or those of all messages."""
    return found.texts if isinstance(found, Conversations) else found


def part_of(dataset: str, config: str | None) -> str:
    """The file or folder `config` inside of the folder `dataset`; None is the whole. Raises UsageError."""
    if config is None:
        return dataset
    if not (part := Path(dataset) / config).exists():
        raise UsageError(f"{part} does not exist; the dataset's config is a file or folder inside of {dataset}")
    return str(part)


def _values(source: str | Path, column: str, split: str) -> Iterator[Value]:
    path = Path(source)
    if made := TEXT_SOURCES.get(str(source)):
        for text in made():
            yield str(source), text
    elif path.is_file():
        yield from _of_file(path, column)
    elif is_dataset(path):
        yield from dataset(path, column, split)
    elif path.is_dir():
        for file in _files(path):
            yield from _of_file(file, column)
    else:
        names = ", ".join([*TEXT_SOURCES, *CONVERSATION_SOURCES])
        raise UnknownTextSourceError(
            f"{str(source)!r} is not a text source: expected a file, a folder, or one of {names}"
        )


def _of_file(file: Path, column: str) -> Iterator[Value]:
    if reader := table_reader(file):
        yield from reader(file, column)
    else:
        yield str(file), _decoded(file)


def _interpreted(value: Any, where: str, column: str) -> str | Chat:
    if isinstance(value, list):
        found = chat_of(value, where)
        for each in found.texts:
            _refuse_half_characters(each, where)
        return found
    if not isinstance(value, str):
        raise TextColumnError(
            f"column {column!r} in {where} holds {type(value).__name__}, expected text or a list of messages; "
            "name another column, or take that record out"
        )
    _refuse_half_characters(value, where)
    return value


def _refuse_half_characters(text: str, where: str) -> None:
    """JSON can spell a half of a surrogate pair, which no tokenizer can read."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UndecodableTextError(
            f"{where} holds \\u{ord(text[error.start]):04x}, which is half of a character; correct the text"
        ) from error


def _files(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.rglob("*") if path.name.endswith(SUFFIXES) and path.is_file())
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
