"""Kinds of tokenizers by name."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ClassVar, TypeVar

from cleangpt.errors import UnknownTokenizerError
from cleangpt.tokenizers.base import BaseTokenizer, TokenizerRequest
from cleangpt.tokenizers.bpe import BPETokenizer
from cleangpt.tokenizers.character import CharacterTokenizer
from cleangpt.tokenizers.hugging_face import GPT2Tokenizer, HuggingFaceTokenizer

Kind = TypeVar("Kind", bound=type[BaseTokenizer])


class TokenizerFactory:
    """Makes tokenizers. `TOKENIZER_TYPES` has the class of every name; adding to it adds a kind."""

    TOKENIZER_TYPES: ClassVar[dict[str, type[BaseTokenizer]]] = {
        "character": CharacterTokenizer,
        "bpe": BPETokenizer,
        "gpt2": GPT2Tokenizer,
        "hugging_face": HuggingFaceTokenizer,
    }

    @classmethod
    def create(cls, kind: str, request: TokenizerRequest) -> BaseTokenizer:
        """A tokenizer of `kind`: a name of TOKENIZER_TYPES, or else a folder that holds a saved one."""
        if found := cls.TOKENIZER_TYPES.get(kind):
            return found.create(request)
        if Path(kind).is_dir() and request.folder is None:
            return HuggingFaceTokenizer.create(TokenizerRequest(folder=Path(kind), context=request.context))
        known = ", ".join(sorted(cls.TOKENIZER_TYPES))
        raise UnknownTokenizerError(f"{kind!r} is no tokenizer: expected {known}, or a folder with a saved one")


def create_tokenizer(
    kind: str,
    *,
    texts: Iterable[str] | None = None,
    folder: Path | str | None = None,
    vocab_size: int | None = None,
    context: int | None = None,
    chat: bool = False,
) -> BaseTokenizer:
    """A tokenizer of `kind`, a registered name or a folder; the rest as TokenizerRequest says.

    Raises UnknownTokenizerError for another kind, TokenizerTextError where there is no text to learn from
    and TokenizerFilesError where a saved one is not found.
    """
    place = None if folder is None else Path(folder)
    return TokenizerFactory.create(kind, TokenizerRequest(texts, place, vocab_size, context, chat))


def register_tokenizer(name: str) -> Callable[[Kind], Kind]:
    """A class decorator that makes `create_tokenizer(name, ...)` give the class.

    Raises UnknownTokenizerError where the name belongs to another class.
    """

    def register(kind: Kind) -> Kind:
        taken = TokenizerFactory.TOKENIZER_TYPES.setdefault(name, kind)
        if taken is not kind:
            raise UnknownTokenizerError(f"the name {name!r} belongs to {taken.__name__}; register under another one")
        return kind

    return register
