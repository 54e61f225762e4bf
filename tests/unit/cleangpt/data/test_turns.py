"""Conversations by chat templates of several kinds."""

import pytest
from transformers import PreTrainedTokenizerFast

from cleangpt.data.messages import Message
from cleangpt.data.turns import Dialogue, dialogues_of, first_request
from cleangpt.errors import TokenizerError
from cleangpt.tokenizers import create_tokenizer

MESSAGES = tuple(
    Message(*each)
    for each in (("user", "Hello"), ("assistant", " Hi \n"), ("user", "And?"), ("assistant", "Bye"), ("user", "ok"))
)
# a line break behind the end marker, as many templates write
LINES = (
    "{% for m in messages %}<|user|>{{ m.role }}:{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|user|>assistant:{% endif %}"
)
# thoughts in the last answer alone
THINKING = (
    "{% for m in messages %}{% if m.role == 'user' %}<|user|>{{ m.content }}{% else %}<|assistant|>"
    "{% if loop.last %}(hm){% endif %}{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
REVERSED = "{% for m in messages | reverse %}{{ m.content }}{% endfor %}"
REFUSING = "{{ raise_exception('roles must alternate') }}"


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    letters = "Hello Hi And? Bye ok user assistant : (hm) \n"
    return create_tokenizer("character", texts=[letters], chat=True).fast


def written(tokenizer: PreTrainedTokenizerFast, dialogue: Dialogue) -> list[tuple[str, str]]:
    return [(tokenizer.decode(turn.prompt), tokenizer.decode(turn.answer)) for turn in dialogue]


def test_turns_follow_each_other_and_what_is_not_answered_is_left_out(tokenizer: PreTrainedTokenizerFast) -> None:
    [dialogue] = dialogues_of(tokenizer, MESSAGES)
    assert written(tokenizer, dialogue) == [
        ("<|user|> Hello<|end|><|assistant|>", "Hi<|end|>"),
        ("<|user|> And?<|end|><|assistant|>", "Bye<|end|>"),
    ]


def test_what_a_template_writes_behind_the_end_marker_is_not_learned(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = LINES
    [dialogue] = dialogues_of(tokenizer, MESSAGES)
    assert written(tokenizer, dialogue) == [
        ("<|user|>user:Hello<|end|>\n<|user|>assistant:", " Hi \n<|end|>"),
        ("\n<|user|>user:And?<|end|>\n<|user|>assistant:", "Bye<|end|>"),
    ]


def test_where_a_template_writes_earlier_answers_differently_each_answer_is_a_dialogue(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    tokenizer.chat_template = THINKING
    found = [written(tokenizer, each) for each in dialogues_of(tokenizer, MESSAGES)]
    assert found == [
        [("<|user|>Hello<|assistant|>", "(hm) Hi \n<|end|>")],
        # as the model is asked: with the first answer as the template writes it by then
        [("<|user|>Hello<|assistant|> Hi \n<|end|><|user|>And?<|assistant|>", "(hm)Bye<|end|>")],
    ]


def test_a_template_that_cannot_be_followed_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = REVERSED
    with pytest.raises(TokenizerError, match="writes an answer elsewhere"):
        dialogues_of(tokenizer, MESSAGES)
    tokenizer.chat_template = REFUSING
    with pytest.raises(TokenizerError, match=r"cannot write a conversation .*roles must alternate"):
        dialogues_of(tokenizer, MESSAGES)
    tokenizer.chat_template = None
    with pytest.raises(TokenizerError, match="need a tokenizer with a chat template"):
        dialogues_of(tokenizer, MESSAGES)


def test_a_model_is_asked_for_the_first_answer(tokenizer: PreTrainedTokenizerFast) -> None:
    assert first_request(tokenizer, MESSAGES) == "<|user|> Hello<|end|><|assistant|>"
