"""Conversations as token ids, by the tokenizer's own chat template."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from transformers import PreTrainedTokenizerFast

from cleangpt.data.messages import ASSISTANT, Message
from cleangpt.errors import TokenizerError


@dataclass(frozen=True)
class Turn:
    """An answer of the assistant and what precedes it as token ids; `answer` includes the end marker."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]


Dialogue = tuple[Turn, ...]
"""The turns of one conversation in their order; each prompt starts where the answer before it ends."""


def dialogues_of(tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message]) -> tuple[Dialogue, ...]:
    """The answers of the assistant, each after what it answers, as a model is asked for it.

    One dialogue if the template writes the messages one after the other. A template may write earlier messages
    differently once others follow, for example without the thoughts of earlier answers; then every answer is a
    dialogue of its own, with all messages before it as its prompt.

    Raises:
        TokenizerError: there is no template, or it cannot write these messages.
    """
    if not tokenizer.chat_template:
        raise TokenizerError(
            "conversations need a tokenizer with a chat template: take a model that has one, or a tokenizer that is "
            "trained on them (create_tokenizer with chat=True)"
        )
    answered = [number for number, each in enumerate(messages) if each.role == ASSISTANT]
    # of every answer the text before it and the text with it, from the start of the conversation
    written = [
        (_written(tokenizer, messages[:number], is_asking=True), _written(tokenizer, messages[: number + 1]))
        for number in answered
    ]
    pieces = [(before, _answer(tokenizer, before, after)) for before, after in written]
    ends = [before + answer for before, answer in pieces]
    if all(before.startswith(end) for end, (before, _) in zip(ends, pieces[1:], strict=False)):
        starts = [0, *map(len, ends)]
        turns = [(before[start:], answer) for start, (before, answer) in zip(starts, pieces, strict=False)]
        return (tuple(_turn(tokenizer, *each) for each in turns),)
    return tuple((_turn(tokenizer, *each),) for each in pieces)


def first_request(tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message]) -> str:
    """The text with which a model is asked for the first answer. Raises TokenizerError."""
    first = next(number for number, each in enumerate(messages) if each.role == ASSISTANT)
    return _written(tokenizer, messages[:first], is_asking=True)


def _answer(tokenizer: PreTrainedTokenizerFast, before: str, after: str) -> str:
    """What the template adds to ask and answer, up to the end token; what it writes behind that nobody generates."""
    if not after.startswith(before):
        raise TokenizerError(
            "the chat template writes an answer elsewhere than after its request for one, so it cannot be told which "
            "tokens the answer has; train with a tokenizer of another template"
        )
    answer, end = after[len(before) :], tokenizer.eos_token
    at = answer.rfind(end) if end else -1
    return answer if at < 0 else answer[: at + len(end)]


def _written(tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message], *, is_asking: bool = False) -> str:
    try:
        text: str = tokenizer.apply_chat_template(
            [asdict(each) for each in messages], tokenize=False, add_generation_prompt=is_asking
        )
    except Exception as error:
        # a template is a program, and may raise almost any exception
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise TokenizerError(f"the tokenizer's chat template cannot write a conversation ({reason})") from error
    return text


def _turn(tokenizer: PreTrainedTokenizerFast, prompt: str, answer: str) -> Turn:
    # each by itself, as in inference, where the answer's tokens are generated after those of the prompt
    prompt_ids, answer_ids = (tokenizer.encode(text, add_special_tokens=False) for text in (prompt, answer))
    return Turn(tuple(prompt_ids), tuple(answer_ids))
