"""Prunes the models of the tokenizers library to what they need to produce some of their tokens.

A model here is the `model` table of a tokenizer.json.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel

from cleangpt.errors import PruningError

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
# options that change BPE's initial symbols, or drop merges at random
_BPE_UNSUPPORTED = ("dropout", "continuing_subword_prefix", "end_of_word_suffix")


def pruned_model(model: dict[str, Any], wanted: set[str], added: set[str]) -> tuple[dict[str, Any], set[str]]:
    """Returns `model` reduced to what it needs to produce the tokens `wanted`, ids unchanged, and all tokens kept.

    `added` tokens are extracted from a text before the model sees it: the model keeps those in its vocabulary, but no
    merges for them. Raises PruningError for a model that cannot be pruned without changing what it does.
    """
    cut = _CUTS.get(model["type"])
    if cut is None:
        raise PruningError(f"a {model['type']} tokenizer cannot be pruned; expected {', '.join(_CUTS)}")
    pruned, tokens = cut(model, wanted - added, added)
    return pruned, tokens | added


def _cut_bpe(model: dict[str, Any], wanted: set[str], added: set[str]) -> tuple[dict[str, Any], set[str]]:
    if found := [name for name in _BPE_UNSUPPORTED if model.get(name)]:
        raise PruningError(f"a BPE tokenizer with {', '.join(found)} cannot be pruned; use it whole")
    vocabulary: dict[str, int] = model["vocab"]
    ranks = {tuple(pair): rank for rank, pair in enumerate(model["merges"])}
    bytes_and_unknown = {*ByteLevel.alphabet(), model.get("unk_token")}
    tokens = added | {each for each in vocabulary if each in bytes_and_unknown or _BYTE.fullmatch(each)}
    needed: set[int] = set()
    for token in wanted & vocabulary.keys() - tokens:
        symbols, merges = _merged(token, ranks)
        needed |= merges
        tokens |= {token, *token, *symbols}
    kept = [model["merges"][rank] for rank in sorted(needed)]
    tokens |= {part for left, right in kept for part in (left, right, left + right)}
    # some added tokens, and letters that are encoded as bytes, are not in the model's vocabulary
    tokens &= vocabulary.keys()
    return {**model, "merges": kept, "vocab": {each: vocabulary[each] for each in tokens}}, tokens


def _merged(token: str, ranks: dict[tuple[str, ...], int]) -> tuple[list[str], set[int]]:
    """The symbols that BPE merges the letters of `token` into, and the ranks of the merges that it applies."""
    symbols, applied = list(token), set()
    while len(symbols) > 1:
        rank, at = min((ranks.get((left, symbols[i + 1]), len(ranks)), i) for i, left in enumerate(symbols[:-1]))
        if rank == len(ranks):
            break
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
        applied.add(rank)
    return symbols, applied


def _cut_words(model: dict[str, Any], wanted: set[str], added: set[str]) -> tuple[dict[str, Any], set[str]]:
    """WordLevel looks up words, WordPiece takes the longest piece that fits; unused entries change neither."""
    vocabulary: dict[str, int] = model["vocab"]
    tokens = vocabulary.keys() & (wanted | added | {model["unk_token"]})
    return {**model, "vocab": {each: vocabulary[each] for each in tokens}}, set(tokens)


def _cut_unigram(model: dict[str, Any], wanted: set[str], added: set[str]) -> tuple[dict[str, Any], set[str]]:
    """The best segmentation remains the best among fewer; the lowest score is kept, because unknowns' scores use it."""
    pieces: list[list[Any]] = model["vocab"]
    unknown = set() if model["unk_id"] is None else {pieces[model["unk_id"]][0]}
    lowest = {min(pieces, key=lambda piece: float(piece[1]))[0]}
    stay = wanted | added | unknown | lowest | {piece for piece, _ in pieces if _BYTE.fullmatch(piece)}
    kept = [piece for piece in pieces if piece[0] in stay]
    unknown_id = _index(kept, unknown)
    return {**model, "vocab": kept, "unk_id": unknown_id}, {piece for piece, _ in kept}


def _index(pieces: Iterable[list[Any]], names: set[str]) -> int | None:
    return next((index for index, (piece, _) in enumerate(pieces) if piece in names), None)


_CUTS: dict[str, Callable[[dict[str, Any], set[str], set[str]], tuple[dict[str, Any], set[str]]]] = {
    "BPE": _cut_bpe,
    "WordLevel": _cut_words,
    "WordPiece": _cut_words,
    "Unigram": _cut_unigram,
}
