from collections.abc import Callable

import pytest
from transformers import PreTrainedTokenizerFast

from cleangpt.data.stdlib_questions import Question, collect_questions
from cleangpt.errors import TokenizerTextError
from cleangpt.tokenizers.bpe import train_bpe
from cleangpt.tokenizers.chat import TEXT_TOKENS


@pytest.fixture(scope="module")
def questions() -> tuple[Question, ...]:
    return collect_questions()


@pytest.fixture(scope="module")
def tokenizer(questions: tuple[Question, ...]) -> PreTrainedTokenizerFast:
    return train_bpe([each.answer for each in questions], vocab_size=1024, context=512)


def test_every_question_and_answer_survives_the_round_trip(
    tokenizer: PreTrainedTokenizerFast, questions: tuple[Question, ...]
) -> None:
    texts = [text for each in questions for text in (each.phrasings[0], each.answer)]
    assert tokenizer.batch_decode(tokenizer(texts)["input_ids"]) == texts


@pytest.mark.parametrize("text", ["naïve — “quoted”", "日本語", "\t tabs\n\nand lines", " a  b ", "🙂"])
def test_text_that_was_never_seen_survives_the_round_trip(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_tokens_are_single_ids_with_the_pad_first(tokenizer: PreTrainedTokenizerFast) -> None:
    assert [tokenizer.encode(token) for token in TEXT_TOKENS] == [[0], [1]]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.model_max_length) == (0, 1, 512)
    assert tokenizer.chat_template is None


def test_the_vocabulary_keeps_to_its_limit(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer) == 1024


def test_a_vocabulary_without_room_for_the_bytes_is_refused_with_what_it_needs() -> None:
    with pytest.raises(TokenizerTextError, match=r"is 257; .* has 258 entries"):
        train_bpe(["text"], vocab_size=257)
    assert len(train_bpe(["text"], vocab_size=258)) == 258


@pytest.mark.parametrize("as_given", [list, iter])
def test_training_twice_gives_the_same_tokenizer(as_given: Callable[[list[str]], list[str]]) -> None:
    texts = ["one two three", "two three four"]
    first, second = (train_bpe(as_given(texts), vocab_size=280).backend_tokenizer.to_str() for _ in range(2))
    assert first == second
