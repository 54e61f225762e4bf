"""Renumbers the post-processor of a tokenizer.json, which also contains token ids."""

from collections.abc import Mapping
from typing import Any

from cleangpt.errors import PruningError


def renumbered_post_processor(processor: dict[str, Any] | None, new: Mapping[str, int]) -> dict[str, Any] | None:
    """`processor` with the ids that `new` maps its tokens to. Raises PruningError for an unsupported kind."""
    if processor is None:
        return None
    match processor["type"]:
        case "ByteLevel":
            return processor
        case "Sequence":
            parts = [renumbered_post_processor(each, new) for each in processor["processors"]]
            return {**processor, "processors": parts}
        case "TemplateProcessing":
            special = {
                name: {**each, "ids": [new[token] for token in each["tokens"]]}
                for name, each in processor["special_tokens"].items()
            }
            return {**processor, "special_tokens": special}
        case "BertProcessing" | "RobertaProcessing":
            ends = {end: [processor[end][0], new[processor[end][0]]] for end in ("sep", "cls")}
            return {**processor, **ends}
        case other:
            raise PruningError(f"a tokenizer with the post-processor {other} cannot be pruned; use it whole")
