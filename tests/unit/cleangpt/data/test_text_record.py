from pathlib import Path

import pytest
import torch

from cleangpt.data.text_record import TEXT_RECORD_FILE, TextRecord
from cleangpt.errors import ModelFolderError

IDS_N = torch.arange(100, dtype=torch.int32)


def test_a_record_comes_back_and_knows_its_text(tmp_path: Path) -> None:
    assert TextRecord.read(tmp_path) is None
    TextRecord.of("a story", IDS_N, 5).write(tmp_path)
    record = TextRecord.read(tmp_path)
    assert record == TextRecord.of("a story", IDS_N, 5)
    assert record is not None
    assert record.is_of(IDS_N.clone())
    assert not record.is_of(IDS_N[:-1])
    assert not record.is_of(IDS_N.flip(0))


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"source": "a", "digest": "b", "tokens": 3, "held_out": 4}', "3", '{"tokens": "many"}']
)
def test_a_damaged_record_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / TEXT_RECORD_FILE).write_text(text)
    with pytest.raises(ModelFolderError, match=r"training_text\.json"):
        TextRecord.read(tmp_path)
