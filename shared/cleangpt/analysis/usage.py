"""Counts how texts use a tokenizer's vocabulary, and derives statistics.

Shapes: V vocabulary, R ranks (used tokens, the most frequent first).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cleangpt.errors import EmptyTextError
from cleangpt.tokenizers.base import BaseTokenizer

COVERAGES = (0.90, 0.95, 0.99)


@dataclass(frozen=True, eq=False)
class TokenUsage:
    """The uses of every token id, and the size of the texts. Words are separated by white space."""

    counts_V: NDArray[np.int64]  # noqa: N815 - a shape
    samples: int
    words: int
    characters: int
    utf8_bytes: int

    @property
    def vocab_size(self) -> int:
        """The number of token ids."""
        return len(self.counts_V)

    @property
    def tokens(self) -> int:
        """The uses of all tokens together, which is the length of the texts in tokens."""
        return int(self.counts_V.sum())

    @property
    def used(self) -> int:
        """The number of distinct tokens that occur."""
        return int(np.count_nonzero(self.counts_V))

    @property
    def unused_ids(self) -> NDArray[np.int64]:
        """The ids that never occur, in ascending order."""
        return np.flatnonzero(self.counts_V == 0)

    @property
    def fertility(self) -> float:
        """Tokens per word (Rust et al. 2021, "How Good is Your Tokenizer?")."""
        return self.tokens / self.words

    @property
    def compression(self) -> float:
        """UTF-8 bytes per token."""
        return self.utf8_bytes / self.tokens

    def frequent_ids(self) -> NDArray[np.int64]:
        """The used ids [R], most frequent first; among equally frequent ones, lower ids first."""
        return np.argsort(-self.counts_V, kind="stable")[: self.used]

    def coverage_curve(self) -> NDArray[np.float64]:
        """The share of all uses [R] that the 1, 2, ... R most frequent tokens make up; the last entry is 1."""
        covered: NDArray[np.float64] = np.cumsum(self.counts_V[self.frequent_ids()]) / self.tokens
        return covered

    def tokens_to_cover(self, share: float) -> int:
        """The fewest tokens that make up `share` (0 to 1) of all uses."""
        # count whole uses, so that rounding cannot require one token more
        covered_R = np.cumsum(self.counts_V[self.frequent_ids()])
        wanted = min(self.tokens, int(np.ceil(round(share * self.tokens, 6))))
        return int(np.searchsorted(covered_R, wanted)) + 1


def count_usage(tokenizer: BaseTokenizer, texts: Iterable[str]) -> TokenUsage:
    """Encodes each text separately and counts. Raises EmptyTextError if the texts hold no word."""
    counts_V = np.zeros(tokenizer.vocab_size, dtype=np.int64)
    samples = words = characters = utf8_bytes = 0
    for text in texts:
        ids = np.asarray(tokenizer.encode(text), dtype=np.int64)
        counts_V += np.bincount(ids, minlength=len(counts_V))
        samples += 1
        words += len(text.split())
        characters += len(text)
        utf8_bytes += len(text.encode())
    if not words or not counts_V.any():
        raise EmptyTextError(f"{samples} texts hold no word to analyse; give text")
    return TokenUsage(counts_V, samples, words, characters, utf8_bytes)


def as_json(usage: TokenUsage, tokenizer: BaseTokenizer, *, most: int = 50) -> dict[str, Any]:
    """The statistics as plain values: totals, coverage, the `most` frequent tokens with their uses, all unused ids."""
    frequent = [int(each) for each in usage.frequent_ids()[:most]]
    names = tokenizer.fast.convert_ids_to_tokens(frequent)
    return {
        "samples": usage.samples,
        "words": usage.words,
        "characters": usage.characters,
        "bytes": usage.utf8_bytes,
        "tokens": usage.tokens,
        "vocabulary": usage.vocab_size,
        "used": usage.used,
        "unused": usage.vocab_size - usage.used,
        "fertility": usage.fertility,
        "bytes_per_token": usage.compression,
        "coverage": {f"{share:g}": usage.tokens_to_cover(share) for share in COVERAGES},
        "most_frequent": [
            {"id": index, "token": name, "uses": int(usage.counts_V[index])}
            for index, name in zip(frequent, names, strict=True)
        ],
        "unused_ids": usage.unused_ids.tolist(),
    }


def as_table(usage: TokenUsage, tokenizer: BaseTokenizer, *, most: int = 10) -> str:
    """The statistics as lines of text: totals first, then the `most` frequent tokens."""
    unused = usage.vocab_size - usage.used
    rows = [
        ("samples", f"{usage.samples:,}"),
        ("tokens", f"{usage.tokens:,}"),
        ("vocabulary", f"{usage.vocab_size:,}"),
        ("unused", f"{unused:,} ({100 * unused / usage.vocab_size:.1f} %)"),
        ("tokens per word", f"{usage.fertility:.3f}"),
        ("bytes per token", f"{usage.compression:.3f}"),
        *((f"cover {100 * share:g} %", f"{usage.tokens_to_cover(share):,} tokens") for share in COVERAGES),
    ]
    lines = [f"{name:<16} {value:>16}" for name, value in rows]
    lines += ["", "most frequent              uses    share"]
    for index in usage.frequent_ids()[:most]:
        # repr makes white space and broken UTF-8 visible
        text = repr(tokenizer.decode([int(index)]))
        uses = int(usage.counts_V[index])
        lines.append(f"{index:>6} {text:<16} {uses:>8,} {100 * uses / usage.tokens:>7.2f} %")
    return "\n".join(lines)
