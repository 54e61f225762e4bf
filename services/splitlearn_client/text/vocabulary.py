"""The bytes and the text of each token, and which tokens are hidden."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

from transformers import PreTrainedTokenizerBase

LOST: Final = "\N{REPLACEMENT CHARACTER}"
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_CACHE_SIZE: Final = 1 << 15
# Runs of spaces, combining marks, zero-width characters, and rare characters.
_ODD_TEXT: Final = "a  b\t\tc\n\n  e\u0301 \u200b\u00ad\u1112\u1161\u11ab ﬁ ½ \U0001f9ff\U00010330\U00010331 Ab"
# The most characters that Unicode normalization composes to one.
_COMPOSED: Final = 4


class Vocabulary:
    """The tokens of one tokenizer; may be used by several threads."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        words = tokenizer.get_vocab()
        self._size = max(words.values(), default=-1) + 1
        longest = max(map(len, words), default=1)
        restored = self.decode(tokenizer.encode(_ODD_TEXT, add_special_tokens=False))
        self.longest: int = longest if restored.strip() == _ODD_TEXT else longest * _COMPOSED
        """The most characters of a text that one token can stand for. Counts the characters that normalization
        composes. Does not count runs of spaces or of unknown characters, which some tokenizers map to one token."""
        anchor = tokenizer.encode("a", add_special_tokens=False)[-1:]
        self._anchor, self._anchor_text = anchor, self.decode(anchor)
        self.name = lru_cache(_CACHE_SIZE)(self._name)
        self.hidden = lru_cache(_CACHE_SIZE)(self._hidden)
        self.text = lru_cache(_CACHE_SIZE)(lambda token: self.within([token]))
        self.bytes = lru_cache(_CACHE_SIZE)(self._bytes)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, without special tokens."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def within(self, ids: Sequence[int]) -> str:
        """Text of ids in the middle of a text, with a leading space if it has one there."""
        whole = self.decode([*self._anchor, *ids])
        return whole[len(self._anchor_text) :] if whole.startswith(self._anchor_text) else self.decode(ids)

    def _name(self, token: int) -> str:
        """The token as the vocabulary spells it; empty for an unknown id."""
        return str(self._tokenizer.convert_ids_to_tokens(token) or "") if 0 <= token < self._size else ""

    def _hidden(self, token: int) -> str | None:
        """The spelling of a hidden token, such as "</s>", empty if it has none; None for visible tokens."""
        if not self.name(token):
            return ""
        if self.decode([token]):
            return None
        shown: Any = self._tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return str(shown) or None

    def _bytes(self, token: int) -> bytes:
        """A token's bytes in the middle of a text; for a part of a character they are no UTF-8."""
        text = self.text(token)
        if LOST not in text:
            return text.encode()
        name = self.name(token)
        if byte := _BYTE.fullmatch(name):
            return bytes([int(byte[1], 16)])
        known = [_ALPHABET.get(character) for character in name]
        return bytes(value for value in known if value is not None) if None not in known else name.encode()


def _alphabet() -> dict[str, int]:
    """The characters by which byte-level vocabularies spell bytes: printable ones, and the others from U+0100 on."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [value for value in range(256) if value not in plain]
    return {chr(value): value for value in plain} | {chr(0x100 + i): value for i, value in enumerate(others)}


_ALPHABET: Final = _alphabet()
