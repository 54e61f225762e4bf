"""The special tokens of the tokenizers trained here, and the chat format of the models that use them.

A turn is `<|user|> question<|end|><|assistant|>answer<|end|>`. Because of the space after the user marker, a
name has the same tokens at the start of a question as in the middle; the answer starts without a space.
"""

from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

PAD, END, UNKNOWN, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|unk|>", "<|user|>", "<|assistant|>"
TEXT_TOKENS = (PAD, END)
CHAT_TOKENS = (PAD, END, USER, ASSISTANT)

# System messages are dropped: a model that only memorizes cannot follow them.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}<|user|> {{ message['content'] | trim }}<|end|>"
    "{% elif message['role'] == 'assistant' %}<|assistant|>{{ message['content'] | trim }}<|end|>{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def special_tokens(names: Sequence[str]) -> list[AddedToken]:
    """Tokens that are matched before the text is split, and that no normalizer changes."""
    return [AddedToken(name, special=True, normalized=False) for name in names]


def hugging_face_form(tokenizer: Tokenizer, *, context: int | None, chat: bool) -> PreTrainedTokenizerFast:
    """Wraps `tokenizer` for `save_pretrained`, with the roles of its special tokens. `context` is in tokens."""
    named: dict[str, object] = {"pad_token": PAD, "eos_token": END}
    if tokenizer.token_to_id(UNKNOWN) is not None:
        named["unk_token"] = UNKNOWN
    if chat:
        named |= {"additional_special_tokens": [USER, ASSISTANT], "chat_template": CHAT_TEMPLATE}
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
