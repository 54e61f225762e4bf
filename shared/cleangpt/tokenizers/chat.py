"""The special tokens of the tokenizers trained here, and the chat format of the models that use them.

A turn is `<|user|> question<|end|><|assistant|>answer<|end|>`. Because of the space after the user marker, a
name has the same tokens at the start of a question as in the middle; the answer starts without a space. A system
message is `<|system|> text<|end|>`, if the tokenizer has that marker.
"""

from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

PAD, END, UNKNOWN, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|unk|>", "<|user|>", "<|assistant|>"
SYSTEM = "<|system|>"
TEXT_TOKENS = (PAD, END)
CHAT_TOKENS = (PAD, END, USER, ASSISTANT)

_SYSTEM_TURN = "{% if message['role'] == 'system' %}<|system|> {{ message['content'] | trim }}<|end|>{% endif %}"


def chat_template(*, system: bool) -> str:
    """The template; without `system` it drops system messages, which a model that never saw one cannot follow."""
    return (
        "{% for message in messages %}"
        "{% if message['role'] == 'user' %}<|user|> {{ message['content'] | trim }}<|end|>"
        "{% elif message['role'] == 'assistant' %}<|assistant|>{{ message['content'] | trim }}<|end|>{% endif %}"
        f"{_SYSTEM_TURN if system else ''}"
        "{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )


def marker_names(*, chat: bool, system: bool) -> tuple[str, ...]:
    """The special tokens of a tokenizer for texts, for conversations, or for conversations with system messages."""
    if not chat:
        return TEXT_TOKENS
    return (*CHAT_TOKENS, SYSTEM) if system else CHAT_TOKENS


def special_tokens(names: Sequence[str]) -> list[AddedToken]:
    """Tokens that are matched before the text is split, and that no normalizer changes."""
    return [AddedToken(name, special=True, normalized=False) for name in names]


def hugging_face_form(tokenizer: Tokenizer, *, context: int | None, chat: bool) -> PreTrainedTokenizerFast:
    """Wraps `tokenizer` for `save_pretrained`, with the roles of its special tokens. `context` is in tokens."""
    named: dict[str, object] = {"pad_token": PAD, "eos_token": END}
    if tokenizer.token_to_id(UNKNOWN) is not None:
        named["unk_token"] = UNKNOWN
    if chat:
        has_system = tokenizer.token_to_id(SYSTEM) is not None
        markers = [USER, ASSISTANT, *([SYSTEM] if has_system else [])]
        named |= {"additional_special_tokens": markers, "chat_template": chat_template(system=has_system)}
    if context is not None:
        named["model_max_length"] = context
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **named)


def prompt_ids(tokenizer: PreTrainedTokenizerFast, question: str) -> list[int]:
    """The token ids of one question, up to where the answer starts."""
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
    )
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def answer_ids(tokenizer: PreTrainedTokenizerFast, answer: str) -> list[int]:
    """The token ids of one answer and the end marker, which follow those of `prompt_ids`."""
    ids: list[int] = tokenizer.encode(f"{answer}{END}", add_special_tokens=False)
    return ids
