import pytest

from cleangpt.data import ConversationRows, Cutting, TokenBlocks, reading_of
from cleangpt.data.messages import Chat, Conversations, Message
from cleangpt.errors import TextTooShortError
from cleangpt.tokenizers import BaseTokenizer, create_tokenizer

CHATS = Conversations(
    tuple(Chat((Message("user", f"{number}"), Message("assistant", f"no {number}"))) for number in range(10, 50))
)


def cutting(validation: float | None = None) -> Cutting:
    return Cutting(block_size=9, batch_size=2, context=16, batch_tokens=40, seed=1, validation=validation)


@pytest.fixture
def tokenizer() -> BaseTokenizer:
    return create_tokenizer("character", texts=["0123456789 no"], chat=True)


def answers(rows: object, tokenizer: BaseTokenizer) -> set[str]:
    assert isinstance(rows, ConversationRows)
    found = [row for batch in rows.rows(0) for row in batch]
    learned = [[each for each, is_ in zip(row.ids, row.learned, strict=True) if is_] for row in found]
    return {tokenizer.decode(ids) for ids in learned}


def test_of_running_text_the_last_tokens_are_held_out(tokenizer: BaseTokenizer) -> None:
    reading = reading_of(["0123456789" * 20], "digits", tokenizer, cutting())
    assert isinstance(reading.data, TokenBlocks)
    assert isinstance(reading.validation, TokenBlocks)
    assert (len(reading.data.ids_N), len(reading.validation.ids_N)) == (191, 10)
    assert (reading.record.total, reading.record.held_out, reading.record.unit) == (201, 10, "tokens")
    whole = reading_of(["0123456789" * 20], "digits", tokenizer, cutting(0.0))
    assert (whole.validation, whole.record.held_out) == (None, 0)


def test_of_conversations_the_last_ones_are_held_out(tokenizer: BaseTokenizer) -> None:
    reading = reading_of(CHATS, "chats", tokenizer, cutting())
    assert answers(reading.validation, tokenizer) == {"no 48<|end|>", "no 49<|end|>"}
    assert answers(reading.data, tokenizer) == {f"no {number}<|end|>" for number in range(10, 48)}
    assert (reading.record.total, reading.record.held_out, reading.record.unit) == (40, 2, "conversations")
    assert len(answers(reading_of(CHATS, "chats", tokenizer, cutting(0.5)).validation, tokenizer)) == 20
    with pytest.raises(TextTooShortError):
        reading_of(CHATS.first(1), "chats", tokenizer, cutting())


def test_of_what_is_memorized_nothing_is_held_out_unless_asked_for(tokenizer: BaseTokenizer) -> None:
    memorized = Conversations(CHATS.items, is_memorized=True)
    assert reading_of(memorized, "chats", tokenizer, cutting()).validation is None
    assert len(answers(reading_of(memorized, "chats", tokenizer, cutting(0.1)).validation, tokenizer)) == 4


def test_what_is_held_out_is_measured_the_same_every_time(tokenizer: BaseTokenizer) -> None:
    held_out = reading_of(CHATS, "chats", tokenizer, cutting(0.5)).validation
    assert isinstance(held_out, ConversationRows)
    assert held_out.rows(0) == held_out.rows(1)
