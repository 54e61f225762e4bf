from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from cleangpt.tokenizers import create_tokenizer, load_tokenizer
from cleangpt.tokenizers.chat import CHAT_TOKENS, SYSTEM, answer_ids, prompt_ids

_TEXTS = ("What does shutil.copyfile do?", "Hello! Help: Be brief.", " shutil.copyfile")


@pytest.fixture(scope="module", params=["bpe", "character"])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return create_tokenizer(request.param, texts=_TEXTS, vocab_size=300, context=64, chat=True).fast


def test_the_markers_are_single_ids_with_the_pad_first(tokenizer: PreTrainedTokenizerFast) -> None:
    assert [tokenizer.encode(token) for token in CHAT_TOKENS] == [[index] for index in range(len(CHAT_TOKENS))]


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


def test_a_tokenizer_for_system_messages_has_a_marker_for_them(tmp_path: Path) -> None:
    fast = create_tokenizer("bpe", texts=_TEXTS, vocab_size=300, chat=True, system=True).fast
    assert fast.encode(SYSTEM) == [len(CHAT_TOKENS)]
    messages = [{"role": "system", "content": " Be brief. "}, {"role": "user", "content": "Help"}]
    fast.save_pretrained(tmp_path)
    for each in (fast, load_tokenizer(tmp_path)):
        text = each.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert text == "<|system|> Be brief.<|end|><|user|> Help<|end|><|assistant|>"
        assert SYSTEM in each.all_special_tokens


def test_a_saved_tokenizer_loads_with_its_chat_format(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.chat_template == tokenizer.chat_template
    assert (loaded.eos_token_id, loaded.pad_token_id, loaded.model_max_length) == (1, 0, 64)
    assert prompt_ids(loaded, "Help") == prompt_ids(tokenizer, "Help")
    assert loaded.decode(prompt_ids(loaded, "Help"), skip_special_tokens=True) == " Help"
