from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest
from transformers import AutoTokenizer

from cleangpt.errors import TokenizerTextError, UnknownTokenizerError
from cleangpt.tokenizers import BaseTokenizer, TokenizerFactory, TokenizerRequest, create_tokenizer, register_tokenizer
from cleangpt.tokenizers.character import CharacterTokenizer

_TEXTS = ("Hello, world!\n  Two spaces.", "Naïve — text.\n")


@pytest.fixture
def _registry_as_before() -> Iterator[None]:
    before = dict(TokenizerFactory.TOKENIZER_TYPES)
    yield
    TokenizerFactory.TOKENIZER_TYPES.clear()
    TokenizerFactory.TOKENIZER_TYPES.update(before)


@pytest.mark.parametrize("kind", ["character", "bpe"])
@pytest.mark.parametrize("chat", [False, True])
def test_a_saved_tokenizer_comes_back_equal(kind: str, chat: bool, tmp_path: Path) -> None:
    made = create_tokenizer(kind, texts=_TEXTS, vocab_size=300, context=32, chat=chat)
    made.save_pretrained(tmp_path)
    loaded, again = AutoTokenizer.from_pretrained(tmp_path), create_tokenizer(str(tmp_path))
    for text in (*_TEXTS, "unseen é日\n", " <|end|> "):
        ids = made.encode(text, parse_special_tokens=True)
        assert loaded.encode(text) == again.encode(text, parse_special_tokens=True) == ids
        assert loaded.decode(ids) == again.decode(ids) == made.decode(ids)
    assert loaded.backend_tokenizer.to_str() == made.fast.backend_tokenizer.to_str()
    assert loaded.special_tokens_map == made.fast.special_tokens_map
    assert loaded.extra_special_tokens == made.fast.extra_special_tokens
    assert again.vocab_size == made.vocab_size


@pytest.mark.parametrize("kind", ["character", "bpe"])
def test_many_texts_are_encoded_like_each_alone_without_anything_around_them(kind: str) -> None:
    tokenizer = create_tokenizer(kind, texts=_TEXTS, vocab_size=300, context=4)
    together = tokenizer.encode_all(_TEXTS)
    assert together == [tokenizer.encode(text) for text in _TEXTS]
    assert [tokenizer.decode(ids) for ids in together] == list(_TEXTS)
    assert max(max(ids) for ids in together) < tokenizer.vocab_size


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownTokenizerError, match="'bep' is not a tokenizer: expected bpe, character, gpt2"):
        create_tokenizer("bep")


def test_a_bpe_without_texts_is_refused() -> None:
    with pytest.raises(TokenizerTextError, match="no texts"):
        create_tokenizer("bpe")


@pytest.mark.usefixtures("_registry_as_before")
def test_a_registered_kind_is_made_by_its_name() -> None:
    @register_tokenizer("lower")
    class Lower(BaseTokenizer):
        @classmethod
        def create(cls, request: TokenizerRequest) -> Self:
            return cls(CharacterTokenizer.create(TokenizerRequest(t.lower() for t in request.texts or ())).fast)

    tokenizer = create_tokenizer("lower", texts=["ABC"])
    assert isinstance(tokenizer, Lower)
    assert tokenizer.encode("abc") == [3, 4, 5]
    assert repr(tokenizer) == "<Lower of 6 tokens>"
    with pytest.raises(UnknownTokenizerError, match="belongs to Lower"):
        register_tokenizer("lower")(CharacterTokenizer)
    assert TokenizerFactory.TOKENIZER_TYPES["lower"] is Lower


@pytest.mark.usefixtures("_registry_as_before")
def test_a_kind_put_into_the_table_is_made_by_its_name() -> None:
    TokenizerFactory.TOKENIZER_TYPES["letters"] = CharacterTokenizer
    assert create_tokenizer("letters", texts=["ab"]).encode("b") == [4]


@pytest.mark.usefixtures("_registry_as_before")
def test_a_registered_kind_that_makes_nothing_is_named() -> None:
    @register_tokenizer("unfinished")
    class Unfinished(BaseTokenizer):
        pass

    with pytest.raises(
        UnknownTokenizerError, match="Unfinished, which is registered as 'unfinished', has to implement"
    ):
        create_tokenizer("unfinished", texts=["a"])


@pytest.mark.parametrize("kind", ["character", "bpe"])
def test_one_text_is_not_taken_for_several_nor_several_for_one(kind: str) -> None:
    tokenizer = create_tokenizer(kind, texts=_TEXTS, vocab_size=300)
    with pytest.raises(TokenizerTextError, match="encode takes one text, found list; encode_all takes several"):
        tokenizer.encode(["a", "b"])  # type: ignore[arg-type]
    with pytest.raises(TokenizerTextError, match="encode takes one"):
        tokenizer.encode_all("ab")


@pytest.mark.parametrize("kind", ["character", "bpe"])
def test_a_special_token_that_is_spelled_in_a_text_is_text_unless_asked_for(kind: str) -> None:
    tokenizer = create_tokenizer(kind, texts=["ends with <|end|> here"], vocab_size=300)
    text = "ends <|end|>"
    assert tokenizer.end_id not in tokenizer.encode(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode(text, parse_special_tokens=True)[-1] == tokenizer.end_id
    # and chats are not affected
    assert tokenizer.fast.encode(text)[-1] == tokenizer.end_id
