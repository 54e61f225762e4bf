import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cleangpt.data.messages import Conversations
from cleangpt.data.sources import (
    TEXT_SOURCES,
    part_of,
    read_conversations,
    read_source,
    read_texts,
    register_text_source,
)
from cleangpt.data.stdlib_questions import collect_questions
from cleangpt.errors import (
    EmptyTextError,
    TextColumnError,
    TextError,
    UndecodableTextError,
    UnknownTextSourceError,
    UsageError,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "b.txt").write_text("second")
    (tmp_path / "a.md").write_text("first")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "code.py").write_bytes("dritter — text\r\n".encode())
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "picture.png").write_bytes(b"\xff\xd8")
    return tmp_path


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`rows` is a dataset, `splits` one with two splits."""
    from datasets import Dataset, DatasetDict

    base = tmp_path_factory.mktemp("datasets")
    rows = Dataset.from_dict({"text": ["one", "two", " "], "story": ["once", "upon", "a"], "number": [1, 2, 3]})
    rows.save_to_disk(str(base / "rows"))
    DatasetDict({"train": rows, "test": rows.select([1])}).save_to_disk(str(base / "splits"))
    return base


def test_a_file_is_one_text_to_the_byte(folder: Path) -> None:
    assert read_texts(folder / "c" / "code.py") == ["dritter — text\r\n"]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfabc")
    assert read_texts(tmp_path / "a.txt") == ["abc"]


def test_a_folder_gives_its_text_files_in_the_order_of_their_paths(folder: Path) -> None:
    assert read_texts(str(folder)) == ["first", "second", "dritter — text\r\n"]
    assert read_texts(folder, max_samples=2) == ["first", "second"]


def test_a_dataset_gives_the_column_asked_for(dataset: Path) -> None:
    assert read_texts(dataset / "rows") == ["one", "two"]
    assert read_texts(dataset / "rows", column="story", max_samples=2) == ["once", "upon"]


def test_a_dataset_of_several_splits_gives_the_one_asked_for(dataset: Path) -> None:
    assert read_texts(dataset / "splits") == ["one", "two"]
    assert read_texts(dataset / "splits", split="test") == ["two"]
    with pytest.raises(TextColumnError, match="no split 'dev', it has train, test"):
        read_texts(dataset / "splits", split="dev")


def test_a_column_that_is_missing_or_no_text_is_refused(dataset: Path) -> None:
    with pytest.raises(TextColumnError, match="no column 'body', it has text, story, number"):
        read_texts(dataset / "rows", column="body")
    with pytest.raises(TextColumnError, match="holds int, expected text"):
        read_texts(dataset / "rows", column="number")


def test_a_broken_dataset_is_refused_with_its_folder(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(TextError, match="looks like a dataset"):
        read_texts(tmp_path)


def test_the_interpreters_documentation_is_text_enough_to_train_on() -> None:
    texts = read_texts("python-documentation")
    assert sum(map(len, texts)) > 500_000
    assert any("shutil.copyfile\nCopy data from src to dst" in text for text in texts)
    assert texts == read_texts("python-documentation")
    # addresses of objects differ from one process to the next
    assert not any(" at 0x7" in text for text in texts)


def test_the_interpreters_questions_are_texts_and_conversations() -> None:
    questions = collect_questions()
    assert read_conversations("stdlib-questions").items == questions
    texts = read_texts("stdlib-questions", max_samples=50)
    assert texts[:2] == [f" {questions[0].phrasings[0]}", questions[0].answer]
    assert texts == read_conversations("stdlib-questions", max_samples=50).texts


def test_a_source_that_is_no_conversation_is_refused_as_one() -> None:
    with pytest.raises(TextColumnError, match="expected stdlib-questions, or a column with lists of messages"):
        read_conversations("python-documentation")


def test_an_unknown_source_is_refused_with_what_is_known(tmp_path: Path) -> None:
    with pytest.raises(UnknownTextSourceError, match=r"nowhere' is not a text source.* python-documentation"):
        read_texts(tmp_path / "nowhere")


def test_a_file_that_is_not_utf8_is_named_with_the_byte(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 au lait")
    with pytest.raises(UndecodableTextError, match=r"latin\.txt is not UTF-8: byte 3 is 0xe9"):
        read_texts(tmp_path)


def test_a_source_without_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EmptyTextError, match=r"no file that ends in \.txt, \.md"):
        read_texts(tmp_path)
    (tmp_path / "a.txt").write_text("\n\n")
    for source in (tmp_path, tmp_path / "a.txt"):
        with pytest.raises(EmptyTextError, match="no text but white space"):
            read_texts(source)


@pytest.fixture
def _registry_as_before() -> Iterator[None]:
    before = dict(TEXT_SOURCES)
    yield
    TEXT_SOURCES.clear()
    TEXT_SOURCES.update(before)


@pytest.mark.usefixtures("_registry_as_before")
def test_a_registered_source_is_read_by_its_name() -> None:
    register_text_source("mine", lambda: ["one", "two"])
    assert read_texts("mine") == ["one", "two"]
    for taken in ("mine", "stdlib-questions"):
        with pytest.raises(UnknownTextSourceError, match="choose another"):
            register_text_source(taken, lambda: [])


def as_lines(*records: object) -> str:
    return "".join(f"{json.dumps(each)}\n" for each in records)


MESSAGES = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]


def test_records_are_texts_whether_named_or_in_a_folder(tmp_path: Path) -> None:
    file = tmp_path / "b.jsonl"
    file.write_text(as_lines({"text": "one"}, {"text": " "}, {"text": "two"}, {"text": "three"}))
    (tmp_path / "a.txt").write_text("zero")
    # a setting, not a text
    (tmp_path / "c.json").write_text("{}")
    assert read_texts(file) == ["one", "two", "three"]
    assert read_texts(tmp_path) == ["zero", "one", "two", "three"]


def test_no_more_is_read_than_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(as_lines({"text": "one"}, {"text": "two"}) + "broken")
    assert read_texts(file, max_samples=2) == ["one", "two"]
    with pytest.raises(TextError, match="line 3"):
        read_texts(file, max_samples=3)


def test_a_column_of_messages_is_conversations(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(as_lines({"id": 1, "messages": MESSAGES}, {"id": 2, "messages": MESSAGES}))
    found = read_source(file, column="messages")
    assert isinstance(found, Conversations)
    assert [each.texts for each in found.items] == [("Hello", "Hi")] * 2
    assert (found.per_row, found.is_memorized) == ((1,), False)
    assert read_texts(file, column="messages", max_samples=1) == ["Hello", "Hi"]
    assert read_conversations(file) == found
    with pytest.raises(TextColumnError, match=r"line 1 has no column 'text', it has id, messages"):
        read_texts(file)
    with pytest.raises(TextColumnError, match=r"line 1 holds int, expected text or a list of messages"):
        read_texts(file, column="id")


def test_text_and_conversations_do_not_mix(tmp_path: Path) -> None:
    for first, second, held in ((MESSAGES, "text", "text"), ("text", MESSAGES, "messages")):
        file = tmp_path / "a.jsonl"
        file.write_text(as_lines({"text": first}, {"text": second}))
        with pytest.raises(TextColumnError, match=rf"a\.jsonl, line 2 holds {held}, and before it"):
            read_texts(file)


def test_half_a_character_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    messages = [MESSAGES[0], {"role": "assistant", "content": "\ud83d"}]
    for column, value in (("text", "a\ud83d"), ("messages", messages)):
        file.write_text(as_lines({column: value}))
        with pytest.raises(UndecodableTextError, match=r"line 1 holds \\ud83d, which is half of a character"):
            read_texts(file, column=column)


def test_a_datasets_config_is_a_file_or_folder_inside_of_it(tmp_path: Path) -> None:
    (tmp_path / "en").mkdir()
    assert part_of(str(tmp_path), None) == str(tmp_path)
    assert part_of(str(tmp_path), "en") == str(tmp_path / "en")
    with pytest.raises(UsageError, match="de does not exist"):
        part_of(str(tmp_path), "de")
