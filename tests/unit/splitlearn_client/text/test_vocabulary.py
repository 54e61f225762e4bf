from collections.abc import Callable

import pytest
from transformers import PreTrainedTokenizerFast

from splitlearn_client.text.vocabulary import Vocabulary
from support.tiny_tokenizers import KINDS, byte_fallback, byte_level, metaspace, wordpiece

TEXT = "the fox, the thé"


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    made: PreTrainedTokenizerFast = request.param()
    return made


def test_the_bytes_of_a_text_s_tokens_are_the_text_s(tokenizer: PreTrainedTokenizerFast) -> None:
    words = Vocabulary(tokenizer)
    ids = tokenizer.encode(TEXT, add_special_tokens=False)
    spelled = b"".join(words.bytes(token) for token in ids).decode()
    # a tokenizer that knows no é takes it for one of its unknown words
    assert spelled.strip() == words.decode(ids).strip()


@pytest.mark.parametrize("kind", [byte_level, byte_fallback])
def test_pieces_of_characters_have_the_bytes_of_the_vocabulary(kind: Callable[[], PreTrainedTokenizerFast]) -> None:
    tokenizer = kind()
    words = Vocabulary(tokenizer)
    ids = tokenizer.encode("a日😀", add_special_tokens=False)
    assert b"".join(words.bytes(token) for token in ids).strip() == "a日😀".encode()
    assert all(len(words.bytes(token)) == 1 for token in ids[-7:])


@pytest.mark.parametrize(
    ("kind", "token", "text"),
    [
        (byte_level, "Ġthe", " the"),
        (byte_fallback, "▁the", " the"),
        (metaspace, "▁the", " the"),
        (wordpiece, "the", " the"),
        (wordpiece, "##e", "e"),
        (wordpiece, ",", ","),
    ],
)
def test_a_token_s_text_is_that_in_the_middle_of_a_text(
    kind: Callable[[], PreTrainedTokenizerFast], token: str, text: str
) -> None:
    tokenizer = kind()
    known = tokenizer.convert_tokens_to_ids(token)
    if known is None:
        pytest.skip("this vocabulary was trained without it")
    assert Vocabulary(tokenizer).text(known) == text


def test_special_tokens_are_hidden_and_keep_their_names(tokenizer: PreTrainedTokenizerFast) -> None:
    words = Vocabulary(tokenizer)
    for name in ("</s>", "<|turn|>"):
        assert words.hidden(tokenizer.convert_tokens_to_ids(name)) == name
    assert words.hidden(tokenizer.encode("the", add_special_tokens=False)[0]) is None


def test_an_added_token_that_is_not_special_is_seen(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.add_tokens(["<tool>"])
    words = Vocabulary(tokenizer)
    token = tokenizer.convert_tokens_to_ids("<tool>")
    assert words.hidden(token) is None
    assert words.text(token).strip() == "<tool>"
    assert words.bytes(token).strip() == b"<tool>"


@pytest.mark.parametrize("token", [-1, 5000])
def test_an_id_that_the_tokenizer_does_not_have_is_nothing_in_a_text(
    tokenizer: PreTrainedTokenizerFast, token: int
) -> None:
    # embeddings often have more rows than the tokenizer has words
    assert Vocabulary(tokenizer).hidden(token) == ""


def test_the_longest_token_bounds_how_much_text_fits(tokenizer: PreTrainedTokenizerFast) -> None:
    longest = Vocabulary(tokenizer).longest
    assert longest >= max(map(len, tokenizer.get_vocab()))
    for text in (TEXT, "thethethe" * 9, "日本" * 9, "e\u0301" * 9, "a" * 50):
        assert len(text) <= longest * len(tokenizer.encode(text))


def test_a_tokenizer_that_changes_texts_is_allowed_longer_ones() -> None:
    exact, changing = byte_level(), wordpiece()
    assert Vocabulary(exact).longest == max(map(len, exact.get_vocab()))
    assert Vocabulary(changing).longest > max(map(len, changing.get_vocab()))
