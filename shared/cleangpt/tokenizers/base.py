"""What every tokenizer here is: text to token ids and back, on top of one of Hugging Face's."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class TokenizerRequest:
    """What a tokenizer can be made from; each kind takes what it needs.

    `texts` are learned from. `folder` holds a saved tokenizer. `vocab_size` is the most entries wanted,
    special tokens included; None leaves it to the kind. `context` is the model's limit in tokens, noted in
    what is saved. `chat` adds the markers and the template of a conversation.
    """

    texts: Iterable[str] | None = None
    folder: Path | None = None
    vocab_size: int | None = None
    context: int | None = None
    chat: bool = False


class BaseTokenizer(ABC):
    """A tokenizer. A new kind inherits this, implements `create` and is registered.

    `fast` is the Hugging Face tokenizer that does the work: what models are saved and served with.
    """

    def __init__(self, fast: PreTrainedTokenizerFast) -> None:
        self.fast = fast

    @classmethod
    @abstractmethod
    def create(cls, request: TokenizerRequest) -> Self:
        """A tokenizer as `request` wants it. Raises TokenizerError where that cannot be."""

    @property
    def vocab_size(self) -> int:
        """One more than the highest token id: how many rows an embedding needs."""
        highest: int = max(self.fast.get_vocab().values())
        return highest + 1

    @property
    def end_id(self) -> int | None:
        """The id that ends a text, where the tokenizer has one."""
        end: int | None = self.fast.eos_token_id
        return end

    def encode(self, text: str) -> list[int]:
        """The token ids of `text` alone: nothing is put before or after it."""
        return self.encode_all([text])[0]

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of each text, computed side by side on all cores."""
        # not by `fast`: that one warns about every text longer than the model's limit, which blocks are cut from
        return [each.ids for each in self.fast.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens included."""
        text: str = self.fast.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def save_pretrained(self, folder: Path | str) -> None:
        """Writes the files that `AutoTokenizer.from_pretrained` reads."""
        self.fast.save_pretrained(folder)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.vocab_size} tokens>"
