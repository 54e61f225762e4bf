"""Text to token ids and back; the only room that knows the tokenizer."""

from collections.abc import Callable, Sequence
from pathlib import Path

from jinja2 import TemplateError
from transformers import AutoTokenizer, PretrainedConfig

from client_service.errors import BadRequest, NoChatTemplate
from splitlearn.tokenizer_files import VOCABULARY_FILES, has_vocabulary


class TextCodec:
    """The served model's tokenizer, read from its sepweight directory.

    Raises:
        FileNotFoundError: the directory holds no tokenizer.
        OSError, ValueError: it holds one that transformers cannot read.
    """

    def __init__(self, weights: Path, config: PretrainedConfig) -> None:
        if not has_vocabulary(path.name for path in weights.iterdir()):
            # transformers would make an empty tokenizer of the model's kind
            raise FileNotFoundError(
                f"{weights} holds no tokenizer ({', '.join(VOCABULARY_FILES)}); convert a checkpoint that has one, "
                "or copy its files there"
            )
        self._tokenizer = AutoTokenizer.from_pretrained(
            weights, config=config, local_files_only=True, trust_remote_code=False
        )

    def encode(self, text: str) -> list[int]:
        """Ids of a prompt, with whatever the tokenizer puts in front."""
        return list(self._tokenizer.encode(text))

    def encode_chat(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Ids of a conversation through the model's chat template, up to where the answer begins.

        Raises:
            NoChatTemplate: the tokenizer has none.
            BadRequest: the template refuses these messages.
        """
        if not self._tokenizer.chat_template:
            raise NoChatTemplate(
                "this model's tokenizer has no chat template; ask /v1/completions with a plain prompt instead"
            )
        try:
            text = self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            raise BadRequest(f"the model's chat template refuses these messages: {error}", "messages") from error
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def piece(self, token: int) -> str:
        """One token as text by itself, for log-probabilities."""
        return str(self._tokenizer.decode([token]))

    @property
    def end_token(self) -> int | None:
        """The tokenizer's own end-of-sequence id."""
        value = self._tokenizer.eos_token_id
        return None if value is None else int(value)

    def decoder(self, prompt: Sequence[int]) -> "IncrementalText":
        """Turns the tokens that follow `prompt` into text, one at a time."""
        return IncrementalText(self.decode, prompt)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens left out."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


class IncrementalText:
    """Text token by token; characters whose bytes are not complete yet wait for the next token.

    Each step decodes a short window that begins a few tokens back, because a token's text depends on its
    neighbours (leading spaces, characters spread over several tokens).
    """

    # enough to see whether a token continues a word
    _CONTEXT = 6
    # a character has at most four bytes, so one of this many windows does not begin inside one
    _STARTS = 4

    def __init__(self, decode: Callable[[Sequence[int]], str], prompt: Sequence[int]) -> None:
        self._decode = decode
        self._ids, self._done = self._window(list(prompt))

    def feed(self, token: int) -> str:
        """The text that this token completes; may be empty."""
        self._ids.append(token)
        text = self._decode(self._ids)
        if text.endswith("\N{REPLACEMENT CHARACTER}"):
            return ""
        piece = text[len(self._done) :]
        self._ids, self._done = self._window(self._ids)
        return piece

    def flush(self) -> str:
        """What is left when no more tokens come, incomplete characters included."""
        return self._decode(self._ids)[len(self._done) :]

    def _window(self, ids: list[int]) -> tuple[list[int], str]:
        """The last ids and their text; bytes of a character that lost its first one would spoil those after them."""
        for length in range(self._CONTEXT, self._CONTEXT + self._STARTS):
            window = ids[-length:]
            text = self._decode(window)
            if not text.startswith("\N{REPLACEMENT CHARACTER}"):
                break
        return window, text
