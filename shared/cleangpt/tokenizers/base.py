"""The base class of all tokenizers: text to token ids and back, on top of a Hugging Face tokenizer."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from transformers import PreTrainedTokenizerFast

from cleangpt.errors import TokenizerTextError


@dataclass(frozen=True)
class TokenizerRequest:
    """The inputs for a tokenizer; each kind uses those it needs.

    `texts` are the training texts. `folder` holds a saved tokenizer. `vocab_size` is the maximum number of entries,
    special tokens included; None leaves it to the kind. `context` is the model's limit in tokens, saved with the
    tokenizer. `chat` adds the markers and the template of a conversation, `system` also that of system messages.
    """

    texts: Iterable[str] | None = None
    folder: Path | None = None
    vocab_size: int | None = None
    context: int | None = None
    chat: bool = False
    system: bool = False


class BaseTokenizer(ABC):
    """A tokenizer. A new kind inherits from this class, implements `create` and is registered.

    `fast` is the Hugging Face tokenizer that does the work; models are saved and served with it.
    """

    def __init__(self, fast: PreTrainedTokenizerFast) -> None:
        self.fast = fast

    @classmethod
    @abstractmethod
    def create(cls, request: TokenizerRequest) -> Self:
        """Creates the tokenizer that `request` describes. Raises TokenizerError if that is impossible."""

    @property
    def vocab_size(self) -> int:
        """The highest token id plus one, which is the number of rows that an embedding needs."""
        highest: int = max(self.fast.get_vocab().values())
        return highest + 1

    @property
    def end_id(self) -> int | None:
        """The id that ends a text; None if the tokenizer has none."""
        end: int | None = self.fast.eos_token_id
        return end

    def encode(self, text: str, *, parse_special_tokens: bool = False) -> list[int]:
        """The token ids of one text, without special tokens before or after it; see `encode_all`."""
        if not isinstance(text, str):
            raise TokenizerTextError(f"encode takes one text, found {type(text).__name__}; encode_all takes several")
        return self.encode_all([text], parse_special_tokens=parse_special_tokens)[0]

    def encode_all(self, texts: Sequence[str], *, parse_special_tokens: bool = False) -> list[list[int]]:
        """The token ids of each text, computed in parallel on all cores.

        Args:
            parse_special_tokens: a special token that is spelled in a text, such as `<|end|>`, becomes that token;
                otherwise it is text like any other.

        Raises:
            TokenizerTextError: `texts` is one text.
        """
        if isinstance(texts, str):
            raise TokenizerTextError("encode_all takes several texts and found one; encode takes one")
        # not by `fast`, which warns about every text longer than the model's limit; blocks are cut from such texts
        backend = self.fast.backend_tokenizer
        before, backend.encode_special_tokens = backend.encode_special_tokens, not parse_special_tokens
        try:
            return [each.ids for each in backend.encode_batch_fast(texts, add_special_tokens=False)]
        finally:
            backend.encode_special_tokens = before

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens included."""
        text: str = self.fast.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def save_pretrained(self, folder: Path | str) -> None:
        """Writes the files that `AutoTokenizer.from_pretrained` reads."""
        self.fast.save_pretrained(folder)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.vocab_size} tokens>"
