"""Tables of records: JSON lines, Parquet files, and folders that the datasets library wrote. Read row by row."""

import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from cleangpt.errors import PackageMissingError, RecordError, TextColumnError, TextError, UndecodableTextError

# `save_to_disk` of the datasets library writes these next to the data
_DATASET_FILE, _DATASET_DICT_FILE = "state.json", "dataset_dict.json"

Value = tuple[str, Any]
"""A value and its place, such as `chats.jsonl, line 3`."""


def is_dataset(folder: Path) -> bool:
    """Whether the datasets library wrote the folder."""
    return (folder / _DATASET_FILE).exists() or (folder / _DATASET_DICT_FILE).exists()


def table_reader(file: Path) -> Callable[[Path, str], Iterator[Value]] | None:
    """The function that reads a column of the file; None if the file is no table."""
    return next((reader for suffix, reader in _READERS.items() if file.name.endswith(suffix)), None)


def json_lines(file: Path, column: str) -> Iterator[Value]:
    """The column of each line; empty lines are skipped. A file that ends in .gz is decompressed.

    Raises RecordError, TextColumnError, UndecodableTextError.
    """
    opened = gzip.open if file.suffix == ".gz" else open
    with opened(file, "rb") as stream:
        for number, line in enumerate(_lines(stream, file), 1):
            where = f"{file}, line {number}"
            if not line.strip():
                continue
            record = _parsed(_decoded(line, where, is_first=number == 1), where)
            _refuse_other_columns(where, column, record)
            yield where, record[column]


def parquet(file: Path, column: str) -> Iterator[Value]:
    """The column of each row. Raises RecordError, TextColumnError or PackageMissingError."""
    try:
        from pyarrow import ArrowException  # type: ignore[import-untyped]
        from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        raise PackageMissingError(f"{file} is Parquet; reading it needs a package: pip install pyarrow") from error
    try:
        with ParquetFile(file) as table:
            _refuse_other_columns(str(file), column, table.schema_arrow.names)
            number = 0
            for batch in table.iter_batches(columns=[column]):
                for value in batch.column(0).to_pylist():
                    number += 1
                    yield f"{file}, row {number}", value
    except (ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise RecordError(f"{file} cannot be read as Parquet ({reason}); copy it again") from error


def dataset(folder: Path, column: str, split: str) -> Iterator[Value]:
    """The column of each row of a dataset on disk. Raises TextError, TextColumnError or PackageMissingError."""
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
    _refuse_other_columns(str(folder), column, data.column_names)
    for number, value in enumerate(data[column], 1):
        yield f"{folder}, row {number}", value


_READERS: Final[dict[str, Callable[[Path, str], Iterator[Value]]]] = {
    ".jsonl": json_lines,
    ".jsonl.gz": json_lines,
    ".json": json_lines,
    ".parquet": parquet,
}


def _lines(stream: Iterable[bytes], file: Path) -> Iterator[bytes]:
    try:
        yield from stream
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise RecordError(f"{file} cannot be decompressed ({error}); copy it again") from error


def _decoded(line: bytes, where: str, *, is_first: bool) -> str:
    try:
        return line.decode("utf-8-sig" if is_first else "utf-8")
    except UnicodeDecodeError as error:
        raise UndecodableTextError(
            f"{where} is not UTF-8: byte {error.start} is 0x{line[error.start]:02x} ({error.reason}); convert the file"
        ) from error


def _parsed(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RecordError(
            f"{where} is not JSON ({getattr(error, 'msg', error)}); expected one object on each line"
        ) from error
    if not isinstance(record, dict):
        raise RecordError(f"{where} holds {type(record).__name__}; expected one object on each line")
    return record


def _refuse_other_columns(where: str, column: str, columns: Iterable[str]) -> None:
    known = list(columns)
    if column not in known:
        raise TextColumnError(
            f"{where} has no column {column!r}, it has {', '.join(known) or 'none'}; name one of them"
        )
