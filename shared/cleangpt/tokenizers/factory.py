"""The registry of tokenizer kinds by name."""

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
    """Creates tokenizers. `TOKENIZER_TYPES` maps names to classes; adding an entry adds a kind."""

    TOKENIZER_TYPES: ClassVar[dict[str, type[BaseTokenizer]]] = {
        "character": CharacterTokenizer,
        "bpe": BPETokenizer,
        "gpt2": GPT2Tokenizer,
        "hugging_face": HuggingFaceTokenizer,
    }

    @classmethod
    def create(cls, kind: str, request: TokenizerRequest) -> BaseTokenizer:
        """Creates a tokenizer of `kind`: a name in TOKENIZER_TYPES, or else a folder that holds a saved tokenizer."""
        if found := cls.TOKENIZER_TYPES.get(kind):
            made: object = found.create(request)
            if not isinstance(made, BaseTokenizer):
                raise UnknownTokenizerError(
                    f"{found.__name__}, which is registered as {kind!r}, has to implement create and return a "
                    f"BaseTokenizer; it returned {made!r}"
                )
            return made
        if Path(kind).is_dir() and request.folder is None:
            return HuggingFaceTokenizer.create(TokenizerRequest(folder=Path(kind), context=request.context))
        known = ", ".join(sorted(cls.TOKENIZER_TYPES))
        raise UnknownTokenizerError(f"{kind!r} is not a tokenizer: expected {known}, or a folder with a saved one")


def create_tokenizer(
    kind: str,
    *,
    texts: Iterable[str] | None = None,
    folder: Path | str | None = None,
    vocab_size: int | None = None,
    context: int | None = None,
    chat: bool = False,
    system: bool = False,
) -> BaseTokenizer:
    """Creates a tokenizer of `kind`, a registered name or a folder. TokenizerRequest describes the other arguments.

    Raises UnknownTokenizerError for any other kind, TokenizerTextError if there is no text to train on, and
    TokenizerFilesError if a saved tokenizer is not found.
    """
    place = None if folder is None else Path(folder)
    return TokenizerFactory.create(kind, TokenizerRequest(texts, place, vocab_size, context, chat, system))


def register_tokenizer(name: str) -> Callable[[Kind], Kind]:
    """A class decorator that makes `create_tokenizer(name, ...)` create instances of the class.

    Raises UnknownTokenizerError if the name belongs to another class.
    """

    def register(kind: Kind) -> Kind:
        taken = TokenizerFactory.TOKENIZER_TYPES.setdefault(name, kind)
        if taken is not kind:
            raise UnknownTokenizerError(f"the name {name!r} belongs to {taken.__name__}; register under another one")
        return kind

    return register
