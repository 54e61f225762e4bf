"""Measures the size of a model and its generation speed."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from transformers import GenerationConfig, PreTrainedModel

from cleangpt.model.context import context_of

_PROMPT = 8
_TOKENS = 32
_ROUNDS = 3


@dataclass(frozen=True)
class Size:
    """The size of all parameters, counting tied ones once. `bytes` is the size in memory."""

    parameters: int
    bytes: int


def size_of(*modules: nn.Module) -> Size:
    """The total size of the modules; shared parameters count once."""
    found = {each.data_ptr(): each for module in modules for each in module.parameters()}
    return Size(
        sum(each.numel() for each in found.values()), sum(each.numel() * each.element_size() for each in found.values())
    )


@torch.inference_mode()
def tokens_per_second(model: PreTrainedModel) -> float:
    """The greedy decoding speed of a single sequence with a cache: the median of three rounds."""
    context = context_of(model) or _PROMPT + _TOKENS
    prompt = min(_PROMPT, context // 2)
    wanted = min(_TOKENS, context - prompt)
    ids_BT = torch.zeros(1, prompt, dtype=torch.long, device=model.device)
    rules = GenerationConfig(
        do_sample=False, num_beams=1, min_new_tokens=wanted, max_new_tokens=wanted, pad_token_id=0, use_cache=True
    )
    mask_BT = torch.ones_like(ids_BT)
    return pace(lambda: model.generate(ids_BT, attention_mask=mask_BT, generation_config=rules), wanted)


def pace(go_on: Callable[[], object], tokens: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """The tokens per second of a call that generates `tokens`: the median of three calls, after one to warm up.

    Args:
        clock: returns the time in seconds.
    """
    go_on()
    seconds = []
    for _ in range(_ROUNDS):
        begun = clock()
        go_on()
        seconds.append(clock() - begun)
    return tokens / sorted(seconds)[_ROUNDS // 2]
