"""Text to token ids and back. The only module that uses the tokenizer."""

import asyncio
import json
from collections.abc import Callable, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import structlog
from llguidance import LLTokenizer
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from splitlearn_client.errors import BadRequest, NoChatTemplate, PromptTooLong
from splitlearn_client.response_process import Kind, ResponseProcess, ResponseUnusable, response_process
from splitlearn_client.structured.vocabulary import read_vocabulary
from splitlearn_client.text.call_probe import written_call
from splitlearn_client.text.chat_template import PLAIN, ChatTemplate, Message, Rendering
from splitlearn_client.text.message_content import ContentFormat
from splitlearn_client.text.template_process import TemplateFailed
from splitlearn_client.text.tokenizer_reading import read_tokenizer
from splitlearn_client.text.tool_messages import WrittenCall
from splitlearn_client.text.vocabulary import Vocabulary

log = structlog.get_logger()

R = TypeVar("R")

# One for a long text, and one so that short texts need not wait for it.
_THREADS: Final = 2
# Characters that are tokenized at a time: a few hundredths of a second.
_CHUNK: Final = 1 << 16
# A text that is tokenized in chunks has a few more tokens than the whole text.
_MARGIN: Final = 1.25
# Tokens of a prompt for a model that has no limit of its own.
_UNLIMITED: Final = 1 << 20
# what templates write before an answer is shorter
_ENDING: Final = 32
_TOKENIZER_CONFIG: Final = "tokenizer_config.json"
_SPECIAL: Final = ("bos_token", "eos_token", "unk_token", "pad_token")


class ChatTokenizer:
    """The served model's tokenizer and chat template, read from its sepweight directory.

    Prompts are tokenized on two threads of its own. A cancelled request takes its work out of their queue. A long text
    is tokenized in chunks, so that it can be cancelled and other texts get their turn.

    Args:
        content_format: see `ChatTemplate`.

    Raises:
        FileNotFoundError: the directory holds no tokenizer.
        BadModelFiles: the tokenizer cannot be read, or its chat template leaves out users' messages.
    """

    def __init__(self, weights: Path, config: PretrainedConfig, content_format: ContentFormat = "auto") -> None:
        self._weights = weights
        self._tokenizer = read_tokenizer(weights, config)
        self._rows = int(config.get_text_config(decoder=True).vocab_size)
        self.vocabulary = Vocabulary(self._tokenizer)
        self.context: int | None = None
        """The model's context length in tokens; None before it is known, and for a model without a limit."""
        self._template = _template(self._tokenizer, content_format)
        self._threads = ThreadPoolExecutor(_THREADS, "text")
        self._long_text = asyncio.Semaphore(1)

    def close(self) -> None:
        """Ends the threads; waiting requests fail."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    @property
    def end_token(self) -> int | None:
        """The tokenizer's own end-of-sequence id."""
        value = self._tokenizer.eos_token_id
        return None if value is None else int(value)

    async def tokenize(
        self, text: str, param: str = "prompt", *, bare: bool = False, is_cut: bool = False
    ) -> list[int]:
        """Ids of a prompt, which errors call `param`; unless it is `bare`, with the tokenizer's special tokens.

        Args:
            is_cut: whether it may have more tokens than the context, as only its last ones are used.

        Raises:
            PromptTooLong: it has more tokens than the model's context. A long text is refused before it is complete.
            BadRequest: it is no Unicode text, or has a token that the model has no embedding for.
        """
        return await self._ids(text, param, bare=bare, is_cut=is_cut)

    async def count_before_more(self, text: str) -> int:
        """Tokens of a text that more text follows: without the special one that the tokenizer adds at the end."""
        ids = await self.tokenize(text) if text else []
        return len(ids) - (bool(ids) and self.vocabulary.hidden(ids[-1]) is not None)

    async def tokenize_chat(
        self,
        messages: Sequence[Message],
        rendering: Rendering = PLAIN,
        *,
        bare: bool = True,
        is_cut: bool = False,
    ) -> list[int]:
        """Ids of a conversation, rendered by the model's chat template.

        Args:
            messages: see `ChatTemplate.render`.
            bare: whether the tokenizer adds no special tokens to those of the template.
            is_cut: as in `tokenize`.

        Raises:
            NoChatTemplate: the tokenizer has no default chat template.
            PromptTooLong, BadRequest: as `tokenize`; also if the template refuses the messages or leaves one out.
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
        # and the template's own text
        longest = 2 * self._most_characters + _CHUNK
        text = await self._on_thread(partial(template.render, messages, longest, rendering))
        return await self._ids(text, "messages", bare=bare, is_cut=is_cut)

    async def spellings(self, words: Sequence[str]) -> list[tuple[int, ...]]:
        """The ids of each word, at the beginning of a text and behind a space."""
        encode = partial(self._encoded, param="bad_words", bare=True)
        spelled = [word.lstrip() for word in words]
        if not spelled:
            return []
        texts = [text for word in spelled for text in (word, f" {word}")]
        return await self._on_thread(lambda: [tuple(ids) for text in texts if (ids := encode(text))])

    async def detokenize(self, ids: Sequence[int]) -> str:
        """Text of ids, with special tokens.

        Raises:
            PromptTooLong: they are more than the model's context.
            BadRequest: the model has no such token.
        """
        if len(ids) > self._most_tokens:
            raise PromptTooLong(
                f"{len(ids)} tokens do not fit into this model's context of {self._most_tokens}", "tokens"
            )
        if wrong := next((token for token in ids if not 0 <= token < self._rows), None):
            raise BadRequest(f"token id {wrong} does not exist; ids go from 0 to {self._rows - 1}", "tokens")
        decode = partial(self._tokenizer.decode, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return str(await self._on_thread(partial(decode, list(ids))))

    def hidden(self) -> dict[str, int]:
        """The special tokens, which texts leave out, by name."""
        added: dict[str, int] = self._tokenizer.get_added_vocab()
        return {name: token for name, token in added.items() if self.vocabulary.hidden(token) == name}

    def responses(self) -> ResponseProcess | None:
        """What reads answers by the tokenizer's response template; None if it has none that can be used. Blocks.

        Raises:
            ProcessFailed: no process can be started that reads it.
        """
        return _response_reader("template", getattr(self._tokenizer, "response_template", None))

    def response_schema(self) -> ResponseProcess | None:
        """As `responses`, for the tokenizer's response schema, which transformers leaves out."""
        path = self._weights / _TOKENIZER_CONFIG
        config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return _response_reader("schema", config.get("response_schema"))

    def written_call(self) -> WrittenCall | None:
        """See `call_probe`; None without a chat template. Blocks."""
        return None if isinstance(self._template, NoChatTemplate) else written_call(self._template)

    @property
    def template(self) -> str:
        """The source of the chat template; empty without one."""
        return "" if isinstance(self._template, NoChatTemplate) else self._template.source

    def ending(self, ids: Sequence[int]) -> str:
        """The text of a prompt's last tokens, with special tokens."""
        last = list(ids[-_ENDING:])
        return str(self._tokenizer.decode(last, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    async def spelled(self, ids: Sequence[int]) -> list[str]:
        """The tokens as the vocabulary spells them."""
        return await self._on_thread(lambda: [self.vocabulary.name(token) for token in ids])

    def read_for_grammars(self, end_tokens: Set[int]) -> LLTokenizer:
        """The vocabulary as llguidance reads it; see `read_vocabulary`. Blocks."""
        return read_vocabulary(self._tokenizer, self._rows, end_tokens)

    def described(self) -> dict[str, Any]:
        """What a program must know to prepare prompts itself, by the names of Hugging Face's tokenizer_config.json."""
        special = {name: _plain(self._tokenizer.special_tokens_map.get(name)) for name in _SPECIAL}
        return {
            "tokenizer_class": type(self._tokenizer).__name__,
            "model_max_length": self.context,
            "vocab_size": self._rows,
            **special,
            "chat_template": self._tokenizer.chat_template,
        }

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, without special tokens."""
        return self.vocabulary.decode(ids)

    async def _ids(self, text: str, param: str, *, bare: bool, is_cut: bool) -> list[int]:
        self._check_length(len(text), param)
        if len(text) <= _CHUNK:
            return await self._on_thread(partial(self._encoded, text, param, bare=bare))
        async with self._long_text:
            # each token has at least one character
            if len(text) > self._most_tokens and not is_cut:
                await self._check_tokens(text, param)
            return await self._on_thread(partial(self._encoded, text, param, bare=bare))

    async def _check_tokens(self, text: str, param: str) -> None:
        n_tokens = 0
        for start in range(0, len(text), _CHUNK):
            chunk = text[start : start + _CHUNK]
            n_tokens += len(await self._on_thread(partial(self._encoded, chunk, param, bare=True)))
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
                f"the text holds {self.vocabulary.name(wrong)!r}, token {wrong}, which this model cannot embed: "
                f"its last token is {self._rows - 1}",
                param,
            )
        return ids

    async def _on_thread(self, work: Callable[[], R]) -> R:
        # cancelling the caller takes work that has not begun out of the queue
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


def _response_reader(kind: Kind, source: Any) -> ResponseProcess | None:
    if source is None:
        return None
    found = response_process(kind, json.dumps(source))
    try:
        found.start()
    except ResponseUnusable as error:
        log.warning(f"the response {kind} cannot be used", reason=str(error))
        return None
    return found


def _plain(token: object) -> str | None:
    return None if token is None else str(token)


def _template(tokenizer: PreTrainedTokenizerBase, content_format: ContentFormat) -> ChatTemplate | NoChatTemplate:
    found = tokenizer.chat_template
    if isinstance(found, dict):
        if "default" not in found:
            return NoChatTemplate(
                f"this model has several chat templates ({', '.join(sorted(found))}) and none is called default; save "
                "the one to use as chat_template.jinja beside the weights, or send a plain prompt to /v1/completions"
            )
        found = found["default"]
    if not isinstance(found, str) or not found:
        return NoChatTemplate(
            "this model's tokenizer has no chat template; send a plain prompt to /v1/completions instead"
        )
    try:
        return ChatTemplate(found, tokenizer.special_tokens_map, content_format)
    except TemplateFailed as error:
        log.warning("the chat template cannot be used", reason=str(error))
        return NoChatTemplate(
            f"this model's chat template cannot be used: {error}; correct it, or send a plain prompt to /v1/completions"
        )


def _length(message: Message) -> int:
    content = message.get("content")
    other = len(message.get("reasoning_content") or "") + len(json.dumps(message.get("tool_calls") or ""))
    if isinstance(content, str):
        return len(content) + other
    return sum(len(part.get("text", "")) for part in content or ()) + other
