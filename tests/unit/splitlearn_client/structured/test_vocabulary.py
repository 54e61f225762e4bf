from collections.abc import Callable

import pytest
from llguidance import LLMatcher
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

from splitlearn_client.structured.vocabulary import NoVocabulary, read_vocabulary
from support.tiny_models import tiny_tokenizer
from support.tiny_tokenizers import byte_fallback, byte_level


@pytest.mark.parametrize("kind", [byte_level, byte_fallback], ids=lambda kind: kind.__name__)
def test_a_text_is_followed_in_the_tokens_of_the_model(kind: Callable[[], PreTrainedTokenizerFast]) -> None:
    tokenizer = kind()
    read = read_vocabulary(tokenizer, len(tokenizer), frozenset({2}))
    matcher = LLMatcher(read, LLMatcher.grammar_from_regex("the é fox"), log_level=0)
    ids = read.tokenize_str("the é fox")
    assert matcher.try_consume_tokens(ids) == len(ids)
    assert matcher.is_accepting()


def test_the_ends_are_those_of_the_model_and_special_tokens_are_no_text() -> None:
    tokenizer = tiny_tokenizer()
    read = read_vocabulary(tokenizer, 400, frozenset({1, 2, 5000}))
    assert (read.vocab_size, read.eos_tokens) == (400, [1, 2])
    matcher = LLMatcher(read, LLMatcher.grammar_from_regex("(?s:.*)"), log_level=0)
    allowed = matcher.compute_bitmask()
    assert [bool(allowed[0] >> token & 1) for token in range(4)] == [False, True, True, True]


def test_a_model_without_an_end_token_gives_its_last_one_away() -> None:
    tokenizer = tiny_tokenizer()
    read = read_vocabulary(tokenizer, 400, frozenset())
    assert (read.vocab_size, read.eos_tokens) == (400, [len(tokenizer) - 1])


def test_a_tokenizer_with_more_tokens_than_the_model_is_read_whole() -> None:
    tokenizer = tiny_tokenizer()
    assert read_vocabulary(tokenizer, 10, frozenset({2})).vocab_size == len(tokenizer)


class InPython(PreTrainedTokenizer):  # type: ignore[misc]  # transformers is untyped here
    @property
    def vocab_size(self) -> int:
        return 1

    def get_vocab(self) -> dict[str, int]:
        return {"a": 0}


def test_a_tokenizer_in_python_is_refused_with_what_to_do() -> None:
    with pytest.raises(NoVocabulary, match=r"tokenizer\.json"):
        read_vocabulary(InPython(), 10, frozenset())
