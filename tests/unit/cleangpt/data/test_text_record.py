from pathlib import Path

import pytest
import torch

from cleangpt.data.messages import Chat, Conversations, Message
from cleangpt.data.text_record import TEXT_RECORD_FILE, TextRecord
from cleangpt.errors import ModelFolderError

IDS_N = torch.arange(100, dtype=torch.int32)


def test_a_record_comes_back_and_knows_its_text(tmp_path: Path) -> None:
    assert TextRecord.read(tmp_path) is None
    TextRecord.of("a story", IDS_N, 5).write(tmp_path)
    record = TextRecord.read(tmp_path)
    assert record == TextRecord.of("a story", IDS_N, 5)
    assert record is not None
    assert record.is_same_text(TextRecord.of("another name", IDS_N.clone(), 0))
    assert not record.is_same_text(TextRecord.of("a story", IDS_N[:-1], 5))
    assert not record.is_same_text(TextRecord.of("a story", IDS_N.flip(0), 5))


def test_conversations_are_counted_as_such(tmp_path: Path) -> None:
    chats = [Chat((Message("user", each), Message("assistant", "yes"))) for each in "abc"]
    TextRecord.of_conversations("chats", Conversations(tuple(chats)), 1).write(tmp_path)
    record = TextRecord.read(tmp_path)
    assert record is not None
    assert (record.total, record.held_out, record.unit) == (3, 1, "conversations")
    assert record.is_same_text(TextRecord.of_conversations("others", Conversations(tuple(chats)), 0))
    assert not record.is_same_text(TextRecord.of_conversations("chats", Conversations(tuple(chats[:2])), 1))


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"source": "a", "digest": "b", "total": 3, "held_out": 4}', "3", '{"total": "many"}']
)
def test_a_damaged_record_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / TEXT_RECORD_FILE).write_text(text)
    with pytest.raises(ModelFolderError, match=r"training_text\.json"):
        TextRecord.read(tmp_path)
