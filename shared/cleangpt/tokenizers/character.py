"""A tokenizer with one token for each character of a text."""

from collections import Counter
from typing import Self

from tokenizers import Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split

from cleangpt.errors import TokenizerTextError
from cleangpt.tokenizers.base import BaseTokenizer, TokenizerRequest
from cleangpt.tokenizers.chat import UNKNOWN, hugging_face_form, marker_names, special_tokens

# a dot does not match a newline
_ANY_CHARACTER = Regex(r"[\s\S]")


class CharacterTokenizer(BaseTokenizer):
    """Its vocabulary is the special tokens, then the alphabet in Unicode order. Other characters become `<|unk|>`."""

    @classmethod
    def create(cls, request: TokenizerRequest) -> Self:
        """Takes the alphabet from `request.texts`; if `vocab_size` limits it, only the most frequent characters.

        Raises TokenizerTextError if the texts hold no character, or if `vocab_size` leaves no entry for one.
        """
        uses: Counter[str] = Counter()
        for text in request.texts or ():
            uses.update(text)
        if not uses:
            raise TokenizerTextError(
                "a character tokenizer takes its alphabet from texts and found no character; pass texts=..."
            )
        names = (*marker_names(chat=request.chat, system=request.system), UNKNOWN)
        room = None if request.vocab_size is None else request.vocab_size - len(names)
        if room is not None and room < 1:
            raise TokenizerTextError(
                f"vocab_size is {request.vocab_size}; {len(names)} entries are special tokens: ask for more"
            )
        # ties go to the character that comes first in Unicode, regardless of the order in the text
        frequent = sorted(uses, key=lambda character: (-uses[character], character))[:room]
        tokens = [*names, *sorted(frequent)]
        vocabulary = {token: index for index, token in enumerate(tokens)}
        tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
        tokenizer.pre_tokenizer = Split(_ANY_CHARACTER, "isolated")
        tokenizer.decoder = Fuse()
        tokenizer.add_special_tokens(special_tokens(names))
        return cls(hugging_face_form(tokenizer, context=request.context, chat=request.chat))
