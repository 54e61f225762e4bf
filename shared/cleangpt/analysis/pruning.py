"""Removes the tokens that texts do not need; the pruned tokenizer encodes these texts as before, renumbered.

It keeps every token that the texts use, the tokens that these are merged from, the special and added tokens,
and for BPE the single bytes, so that other text still has an encoding. Ids keep their order.

Why the merges of each used token are enough: the merges that BPE applies inside a token do not depend on
what surrounds it, since pairs across its borders are never merged; so the merges applied to the texts are
exactly those of the used tokens. With only these left, the pair of lowest rank is the same at every step.
The encodings of all texts are compared nevertheless.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from cleangpt.analysis.pruned_models import pruned_model
from cleangpt.analysis.renumbering import renumbered_post_processor
from cleangpt.analysis.usage import count_usage
from cleangpt.errors import PruningError
from cleangpt.tokenizers.base import BaseTokenizer
from cleangpt.tokenizers.hugging_face import HuggingFaceTokenizer


@dataclass(frozen=True)
class PrunedTokenizer:
    """A pruned tokenizer. `kept[i]` is the original id of its token i; `kept` is ascending."""

    tokenizer: BaseTokenizer
    kept: tuple[int, ...]

    def renumbered(self, ids: Sequence[int]) -> list[int]:
        """Converts ids of the original tokenizer to those of the pruned one. Raises PruningError for a dropped id."""
        if gone := sorted({each for each in ids if each not in self._new}):
            raise PruningError(f"the pruned tokenizer has no token for ids {gone[:10]}; analyse text that uses them")
        return [self._new[each] for each in ids]

    @cached_property
    def _new(self) -> dict[int, int]:
        return {old: index for index, old in enumerate(self.kept)}


def prune_tokenizer(tokenizer: BaseTokenizer, texts: Sequence[str]) -> PrunedTokenizer:
    """The smallest tokenizer that encodes `texts` as `tokenizer` does, in Hugging Face's format.

    Raises PruningError for a kind of tokenizer that cannot be pruned without changing what it does, and
    EmptyTextError if the texts hold no word.
    """
    backend = json.loads(tokenizer.fast.backend_tokenizer.to_str())
    used = {int(each) for each in count_usage(tokenizer, texts).frequent_ids()}
    by_id = {index: token for token, index in tokenizer.fast.get_vocab().items()}
    added = {each["content"] for each in backend["added_tokens"]} | {*tokenizer.fast.all_special_tokens}
    model, tokens = pruned_model(backend["model"], {by_id[each] for each in used}, added)
    kept = tuple(index for index in sorted(by_id) if by_id[index] in tokens)
    new = {by_id[old]: index for index, old in enumerate(kept)}
    if isinstance(model["vocab"], dict):
        model["vocab"] = {token: new[token] for token in sorted(model["vocab"], key=lambda token: new[token])}
    backend["model"] = model
    backend["added_tokens"] = [{**each, "id": new[each["content"]]} for each in backend["added_tokens"]]
    backend["post_processor"] = renumbered_post_processor(backend["post_processor"], new)
    backend["padding"] = backend["truncation"] = None
    pruned = PrunedTokenizer(HuggingFaceTokenizer(_like(tokenizer.fast, backend)), kept)
    _compare(tokenizer, pruned, texts, new)
    return pruned


def _like(fast: PreTrainedTokenizerFast, backend: dict[str, Any]) -> PreTrainedTokenizerFast:
    """The tokenizer described by `backend`, with the special tokens, template and limit of `fast`."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(backend)),
        **fast.special_tokens_map,
        extra_special_tokens=list(fast.extra_special_tokens),
        chat_template=fast.chat_template,
        model_max_length=fast.model_max_length,
        padding_side=fast.padding_side,
        clean_up_tokenization_spaces=fast.clean_up_tokenization_spaces,
    )


def _compare(tokenizer: BaseTokenizer, pruned: PrunedTokenizer, texts: Sequence[str], new: dict[str, int]) -> None:
    if pruned.tokenizer.fast.get_vocab() != new:
        raise PruningError("the added tokens of this tokenizer have ids that cannot be kept in order; use it whole")
    for text in texts:
        if pruned.tokenizer.encode(text) != pruned.renumbered(tokenizer.encode(text)):
            raise PruningError(f"pruned, this tokenizer encodes {text[:40]!r} otherwise; use it whole")
