"""Text to token ids and back; the only room that knows the tokenizer."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import structlog
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from client_service.errors import BadRequest, NoChatTemplate, PromptTooLong
from client_service.text.chat_template import ChatTemplate, ContentFormat, Message
from client_service.text.template_process import TemplateFailed
from client_service.text.tokenizer_reading import read_tokenizer
from client_service.text.vocabulary import Vocabulary

log = structlog.get_logger()

R = TypeVar("R")

# One for a long text, and one for those that do not wait for it.
_THREADS: Final = 2
# Characters that are turned into tokens in one go: a few hundredths of a second.
_PIECE: Final = 1 << 16
# A text in pieces has a few more tokens than the same text in one.
_MARGIN: Final = 1.25
# Tokens of a prompt for a model that has no limit of its own.
_UNLIMITED: Final = 1 << 20


class ChatTokenizer:
    """The served model's tokenizer, read from its sepweight directory.

    Prompts become tokens on two threads of its own. A request that is cancelled takes its work out of their queue, and
    the work of a long text is divided, so that it can be ended and lets others through.

    Args:
        content_format: see `ChatTemplate`.

    Raises:
        FileNotFoundError: the directory holds no tokenizer.
        BadModelFiles: it holds one that cannot be read, or whose chat template leaves out what users say.
    """

    def __init__(self, weights: Path, config: PretrainedConfig, content_format: ContentFormat = "auto") -> None:
        self._tokenizer = read_tokenizer(weights, config)
        self._rows = int(config.get_text_config(decoder=True).vocab_size)
        self.vocabulary = Vocabulary(self._tokenizer)
        self.context: int | None = None
        """Tokens that the model can take, once that is known; None while it is not, and without such a limit."""
        self._template = _template(self._tokenizer, content_format)
        self._threads = ThreadPoolExecutor(_THREADS, "text")
        self._long_text = asyncio.Semaphore(1)

    def close(self) -> None:
        """Ends its threads; requests that still wait for them fail."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    @property
    def end_token(self) -> int | None:
        """The tokenizer's own end-of-sequence id."""
        value = self._tokenizer.eos_token_id
        return None if value is None else int(value)

    async def tokenize(self, text: str) -> list[int]:
        """Ids of a prompt, with whatever the tokenizer puts in front.

        Raises:
            PromptTooLong: it has more tokens than the model's context, which is noticed before all are made.
            BadRequest: it is no Unicode text, or has a token that the model has no embedding for.
        """
        return await self._ids(text, "prompt", bare=False)

    async def tokenize_chat(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a conversation through the model's chat template, up to where the answer begins.

        Args:
            messages: see `ChatTemplate.render`.

        Raises:
            NoChatTemplate: the tokenizer has none that is to be used without naming it.
            PromptTooLong, BadRequest: as `tokenize`; or the template refuses these messages or leaves one out.
        """
        template = self._template
        if isinstance(template, NoChatTemplate):
            raise NoChatTemplate(str(template))
        if len(messages) > self._most_tokens:
            raise PromptTooLong(
                f"{len(messages)} messages cannot fit into this model's context of {self._most_tokens} tokens; "
                "send fewer of them",
                "messages",
            )
        self._check_length(sum(map(_length, messages)), "messages")
        # the template's own words come on top
        longest = 2 * self._most_characters + _PIECE
        text = await self._on_thread(partial(template.render, messages, longest))
        return await self._ids(text, "messages", bare=True)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens left out."""
        return self.vocabulary.decode(ids)

    async def _ids(self, text: str, param: str, *, bare: bool) -> list[int]:
        self._check_length(len(text), param)
        if len(text) <= _PIECE:
            return await self._on_thread(partial(self._encoded, text, param, bare=bare))
        async with self._long_text:
            # no token has less than a character
            if len(text) > self._most_tokens:
                await self._check_tokens(text, param)
            return await self._on_thread(partial(self._encoded, text, param, bare=bare))

    async def _check_tokens(self, text: str, param: str) -> None:
        n_tokens = 0
        for start in range(0, len(text), _PIECE):
            piece = text[start : start + _PIECE]
            n_tokens += len(await self._on_thread(partial(self._encoded, piece, param, bare=True)))
            if n_tokens > _MARGIN * self._most_tokens:
                raise PromptTooLong(
                    f"the prompt has more than {n_tokens} tokens, but this model's context is {self._most_tokens} "
                    "tokens, answer included; shorten the prompt",
                    param,
                )

    def _encoded(self, text: str, param: str, *, bare: bool) -> list[int]:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise BadRequest("the text holds half of a surrogate pair, which is no character", param) from error
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=not bare, verbose=False)
        if ids and not 0 <= min(ids) <= max(ids) < self._rows:
            wrong = next(token for token in ids if not 0 <= token < self._rows)
            raise BadRequest(
                f"the text holds {self.vocabulary.name(wrong)!r}, token {wrong}, which this model does not know: "
                f"its embedding ends at {self._rows - 1}",
                param,
            )
        return ids

    async def _on_thread(self, work: Callable[[], R]) -> R:
        # when its caller is cancelled, work that has not begun is taken out of the queue
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    @property
    def _most_tokens(self) -> int:
        return self.context or _UNLIMITED

    @property
    def _most_characters(self) -> int:
        return self._most_tokens * self.vocabulary.longest

    def _check_length(self, n_characters: int, param: str) -> None:
        if n_characters > self._most_characters:
            raise PromptTooLong(
                f"the prompt has {n_characters} characters, but this model's context is {self._most_tokens} tokens "
                f"of at most {self.vocabulary.longest} characters, answer included; shorten the prompt",
                param,
            )


def _template(tokenizer: PreTrainedTokenizerBase, content_format: ContentFormat) -> ChatTemplate | NoChatTemplate:
    found = tokenizer.chat_template
    if isinstance(found, dict):
        if "default" not in found:
            return NoChatTemplate(
                f"this model has several chat templates ({', '.join(sorted(found))}) and none is called default; save "
                "the one to use as chat_template.jinja beside the weights, or ask /v1/completions with a plain prompt"
            )
        found = found["default"]
    if not isinstance(found, str) or not found:
        return NoChatTemplate(
            "this model's tokenizer has no chat template; ask /v1/completions with a plain prompt instead"
        )
    try:
        return ChatTemplate(found, tokenizer.special_tokens_map, content_format)
    except TemplateFailed as error:
        log.warning("the chat template cannot be used", reason=str(error))
        return NoChatTemplate(
            f"this model's chat template cannot be used: {error}; mend it, or ask /v1/completions with a plain prompt"
        )


def _length(message: Message) -> int:
    content = message.get("content")
    if isinstance(content, str):
        return len(content)
    return sum(len(part.get("text", "")) for part in content or ())
