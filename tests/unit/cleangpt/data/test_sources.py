from collections.abc import Iterator
from pathlib import Path

import pytest

from cleangpt.data.sources import TEXT_SOURCES, read_conversations, read_texts, register_text_source
from cleangpt.data.stdlib_questions import collect_questions
from cleangpt.errors import (
    EmptyTextError,
    TextColumnError,
    TextError,
    UndecodableTextError,
    UnknownTextSourceError,
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
    questions = read_conversations("stdlib-questions")
    assert questions == collect_questions()
    texts = read_texts("stdlib-questions", max_samples=50)
    assert texts[:2] == [f" {questions[0].phrasings[0]}", questions[0].answer]


def test_a_source_that_is_no_conversation_is_refused_as_one() -> None:
    with pytest.raises(UnknownTextSourceError, match="expected stdlib-questions"):
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
    with pytest.raises(UnknownTextSourceError, match="choose another"):
        register_text_source("mine", lambda: [])
