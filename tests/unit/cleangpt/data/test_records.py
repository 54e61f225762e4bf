import gzip
import json
from pathlib import Path

import pytest

from cleangpt.data.records import dataset, json_lines, parquet, table_reader
from cleangpt.errors import PackageMissingError, RecordError, TextColumnError, UndecodableTextError

RECORDS = [{"text": "one {\n}", "number": 1}, {"text": "zw\u00f6lf", "number": 2}]


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    file = tmp_path / "a.jsonl"
    file.write_text("\n".join(json.dumps(each) for each in RECORDS) + "\n\n", encoding="utf-8")
    return file


@pytest.fixture
def table(tmp_path: Path) -> Path:
    from datasets import Dataset

    Dataset.from_list(RECORDS * 3).to_parquet(str(tmp_path / "a.parquet"), batch_size=2)
    return tmp_path / "a.parquet"


def test_a_line_is_a_record_with_its_number(lines: Path) -> None:
    assert list(json_lines(lines, "text")) == [(f"{lines}, line 1", "one {\n}"), (f"{lines}, line 2", "zw\u00f6lf")]
    assert [value for _, value in json_lines(lines, "number")] == [1, 2]


def test_a_byte_order_mark_is_no_json(lines: Path) -> None:
    lines.write_bytes(b"\xef\xbb\xbf" + lines.read_bytes())
    assert [value for _, value in json_lines(lines, "number")] == [1, 2]


def test_compressed_lines_are_read_as_such(lines: Path, tmp_path: Path) -> None:
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(gzip.compress(lines.read_bytes()))
    assert [value for _, value in json_lines(packed, "text")] == [each["text"] for each in RECORDS]
    packed.write_bytes(packed.read_bytes()[:-12])
    with pytest.raises(RecordError, match=r"a\.jsonl\.gz cannot be decompressed"):
        list(json_lines(packed, "text"))
    packed.write_bytes(lines.read_bytes())
    with pytest.raises(RecordError, match="cannot be decompressed"):
        list(json_lines(packed, "text"))


def test_lines_are_read_no_further_than_asked_for(lines: Path) -> None:
    lines.write_text(lines.read_text() + "no json\n")
    values = json_lines(lines, "number")
    assert [next(values)[1], next(values)[1]] == [1, 2]
    with pytest.raises(RecordError, match=r"a\.jsonl, line 4 is not JSON \(Expecting value\)"):
        next(values)


@pytest.mark.parametrize(
    ("line", "error", "reason"),
    [
        (b'{"text": "a"', RecordError, "line 3 is not JSON"),
        (b"[" * 100_000, RecordError, "line 3 is not JSON"),
        (b'["a"]', RecordError, "line 3 holds list; expected one object on each line"),
        (b"{", RecordError, "line 3 is not JSON"),
        (b'{"story": "a", "n": 1}', TextColumnError, "line 3 has no column 'text', it has story, n"),
        (b"{}", TextColumnError, "line 3 has no column 'text', it has none"),
        (b'{"text": "caf\xe9"}', UndecodableTextError, "line 3 is not UTF-8: byte 13 is 0xe9"),
    ],
)
def test_a_line_that_is_no_such_record_is_named(lines: Path, line: bytes, error: type[Exception], reason: str) -> None:
    # the second line takes the place of an empty one
    lines.write_bytes(b"\n".join(json.dumps(each).encode() for each in RECORDS) + b"\n" + line)
    with pytest.raises(error, match=reason):
        list(json_lines(lines, "text"))


def test_a_row_of_parquet_is_a_record_with_its_number(table: Path) -> None:
    assert [value for _, value in parquet(table, "number")] == [1, 2] * 3
    assert list(parquet(table, "text"))[3] == (f"{table}, row 4", "zw\u00f6lf")


def test_a_parquet_file_without_the_column_or_damaged_is_refused(table: Path) -> None:
    with pytest.raises(TextColumnError, match=r"a\.parquet has no column 'story', it has text, number"):
        list(parquet(table, "story"))
    table.write_bytes(table.read_bytes()[:-10])
    with pytest.raises(RecordError, match=r"a\.parquet cannot be read as Parquet"):
        list(parquet(table, "text"))


def test_lists_of_messages_come_back_from_parquet_and_from_a_dataset(tmp_path: Path) -> None:
    from datasets import Dataset

    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    rows = Dataset.from_list([{"messages": messages}])
    rows.to_parquet(str(tmp_path / "a.parquet"))
    rows.save_to_disk(str(tmp_path / "rows"))
    assert [value for _, value in parquet(tmp_path / "a.parquet", "messages")] == [messages]
    assert list(dataset(tmp_path / "rows", "messages", "train")) == [(f"{tmp_path / 'rows'}, row 1", messages)]


def test_without_the_package_for_parquet_the_command_that_installs_it_is_named(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(PackageMissingError, match="pip install pyarrow"):
        list(parquet(table, "text"))


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "b.c.parquet"])
def test_the_name_tells_a_table(name: str) -> None:
    assert table_reader(Path(name)) is not None


@pytest.mark.parametrize("name", ["a.txt", "a.gz", "jsonl", "a.csv"])
def test_other_files_are_none(name: str) -> None:
    assert table_reader(Path(name)) is None
