import pytest

from cleangpt.errors import TokenizerTextError
from cleangpt.tokenizers import create_tokenizer

_TEXT = "To be, or not to be:\n\n  that\tis\r\nthe question — 日本 🙂."


def test_every_character_is_one_token_and_comes_back() -> None:
    tokenizer = create_tokenizer("character", texts=[_TEXT])
    ids = tokenizer.encode(_TEXT)
    assert len(ids) == len(_TEXT)
    assert tokenizer.decode(ids) == _TEXT
    assert tokenizer.vocab_size == 3 + len(set(_TEXT))


def test_ids_follow_unicode_whatever_the_order_of_the_text() -> None:
    assert create_tokenizer("character", texts=["cab"]).encode("abc") == [3, 4, 5]
    assert create_tokenizer("character", texts=["b", "ca"]).encode("abc") == [3, 4, 5]


def test_characters_that_were_never_seen_become_unknown_one_by_one() -> None:
    tokenizer = create_tokenizer("character", texts=["abc"])
    ids = tokenizer.encode("a?!c")
    assert ids == [3, 2, 2, 5]
    assert tokenizer.decode(ids) == "a<|unk|><|unk|>c"
    assert tokenizer.fast.unk_token_id == 2


def test_a_limited_vocabulary_keeps_the_most_frequent_characters() -> None:
    tokenizer = create_tokenizer("character", texts=["aabbbcd"], vocab_size=5)
    assert tokenizer.vocab_size == 5
    assert tokenizer.decode(tokenizer.encode("abcd")) == "ab<|unk|><|unk|>"


@pytest.mark.parametrize("texts", [None, [], [""]])
def test_without_a_character_to_learn_nothing_is_made(texts: list[str] | None) -> None:
    with pytest.raises(TokenizerTextError, match="found no character"):
        create_tokenizer("character", texts=texts)


def test_a_vocabulary_without_room_for_a_character_is_refused() -> None:
    with pytest.raises(TokenizerTextError, match="is 3; 3 entries are special"):
        create_tokenizer("character", texts=["abc"], vocab_size=3)
