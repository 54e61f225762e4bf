"""A byte-level BPE tokenizer trained on the spot; it can encode any text."""

from collections.abc import Iterable
from typing import Self

from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from cleangpt.errors import TokenizerTextError
from cleangpt.tokenizers.base import BaseTokenizer, TokenizerRequest
from cleangpt.tokenizers.chat import hugging_face_form, marker_names, special_tokens

DEFAULT_VOCABULARY = 4096


class BPETokenizer(BaseTokenizer):
    """Merges the most frequent pairs (Sennrich et al. 2016), starting from bytes (Radford et al. 2019)."""

    @classmethod
    def create(cls, request: TokenizerRequest) -> Self:
        """Trains a tokenizer on `request.texts`. Raises TokenizerTextError if there are none."""
        if request.texts is None:
            raise TokenizerTextError("a bpe tokenizer is trained on the spot and was given no texts; pass texts=...")
        vocab_size = DEFAULT_VOCABULARY if request.vocab_size is None else request.vocab_size
        fast = train_bpe(
            request.texts, vocab_size=vocab_size, context=request.context, chat=request.chat, system=request.system
        )
        return cls(fast)


def train_bpe(
    texts: Iterable[str],
    *,
    vocab_size: int,
    context: int | None = None,
    chat: bool = False,
    system: bool = False,
) -> PreTrainedTokenizerFast:
    """Trains a tokenizer with at most `vocab_size` entries: the special tokens, all 256 bytes, then merges.

    Every text decodes back to itself. `context` is the model's limit in tokens. Equal texts produce equal
    tokenizers. Raises TokenizerTextError if `vocab_size` is too small for the special tokens and the bytes.
    """
    names = marker_names(chat=chat, system=system)
    alphabet = ByteLevel.alphabet()
    if vocab_size < len(names) + len(alphabet):
        raise TokenizerTextError(
            f"vocab_size is {vocab_size}; a byte-level BPE has {len(names) + len(alphabet)} entries before its "
            f"first merge ({len(names)} special tokens, {len(alphabet)} bytes): ask for more"
        )
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special_tokens(names),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return hugging_face_form(tokenizer, context=context, chat=chat)
