from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from cleangpt.bpe import SPECIAL_TOKENS, answer_ids, load_bpe, prompt_ids, train_bpe
from cleangpt.stdlib_questions import Question, collect_questions


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
    assert [tokenizer.encode(token) for token in SPECIAL_TOKENS] == [[index] for index in range(len(SPECIAL_TOKENS))]
    assert tokenizer.pad_token_id == 0
    assert tokenizer.eos_token == "<|end|>"


def test_the_vocabulary_keeps_to_its_limit(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer) == 1024


def test_training_twice_gives_the_same_tokenizer(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    texts = ["one two three", "two three four"]
    first, second = (train_bpe(texts, vocab_size=280, context=64).backend_tokenizer.to_str() for _ in range(2))
    assert first == second


def test_a_name_has_the_same_tokens_at_the_start_of_a_question_and_inside_it(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    bare = prompt_ids(tokenizer, "shutil.copyfile")
    inside = prompt_ids(tokenizer, "What does shutil.copyfile do?")
    name = bare[1:-2]
    assert any(inside[start : start + len(name)] == name for start in range(len(inside)))


def test_a_conversation_is_prompts_and_answers_one_after_the_other(tokenizer: PreTrainedTokenizerFast) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": " Hello \n"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "Help"},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|user|> Hello<|end|><|assistant|>Hello!<|end|><|user|> Help<|end|><|assistant|>"
    expected = prompt_ids(tokenizer, "Hello") + answer_ids(tokenizer, "Hello!") + prompt_ids(tokenizer, "Help")
    assert tokenizer.encode(text) == expected


def test_a_saved_tokenizer_loads_with_its_chat_format(tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tiny_tokenizer.save_pretrained(tmp_path)
    loaded = load_bpe(tmp_path)
    assert loaded.chat_template == tiny_tokenizer.chat_template
    assert (loaded.eos_token_id, loaded.pad_token_id, loaded.model_max_length) == (1, 0, 64)
    assert prompt_ids(loaded, "help") == prompt_ids(tiny_tokenizer, "help")
