"""Removes the embedding and head rows of tokens that a pruned tokenizer dropped.

Shapes: V vocabulary before, K kept tokens, D hidden size.
"""

import copy
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from cleangpt.errors import PruningError

_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")


def cut_embedding(model: PreTrainedModel, kept: Sequence[int]) -> PreTrainedModel:
    """A copy of `model` whose token i is token `kept[i]` of the original; nothing between embedding and head changes.

    So its hidden states for renumbered text are the same, as are its logits at kept ids. The token ids in its
    configs are renumbered; dropped ones become None. Raises PruningError for an id that the model has no row for.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    if not kept or max(kept) >= rows or min(kept) < 0:
        raise PruningError(
            f"the tokenizer keeps {len(kept)} ids up to {max(kept, default=-1)}, the model has {rows} embedding rows: "
            "tokenizer and model do not belong together"
        )
    cut = copy.deepcopy(model)
    kept_K = torch.tensor(list(kept))
    with torch.no_grad():
        for parameter in _token_rows(cut):
            parameter[: len(kept)] = parameter[kept_K]
    cut.resize_token_embeddings(len(kept))
    new = {old: index for index, old in enumerate(kept)}
    for config in (cut.config, cut.generation_config):
        for name in _TOKEN_IDS:
            if (old := getattr(config, name, None)) is not None:
                setattr(config, name, _renumbered(old, new))
    return cut


def _token_rows(model: PreTrainedModel) -> list[torch.Tensor]:
    """The parameters with one row per token: the embedding, the head unless it is tied, and the head's bias."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    own = [] if head is None or head.weight is embedding.weight else [head.weight]
    bias = getattr(head, "bias", None)
    return [embedding.weight, *own, *([] if bias is None else [bias])]


def _renumbered(old: int | list[int], new: dict[int, int]) -> int | list[int] | None:
    if isinstance(old, int):
        return new.get(old)
    return [new[each] for each in old if each in new] or None
