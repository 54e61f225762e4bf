"""Continues one prompt with transformers' `generate`."""

from typing import Any, Protocol

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from cleangpt.errors import GenerationSettingsError, PromptError
from cleangpt.inference.sampling import Sampling
from cleangpt.tokenizers import BaseTokenizer

# of torch's generators
_SEEDS = 2**64


class Streamer(Protocol):
    """Receives ids as they are generated, such as transformers' `TextStreamer`."""

    def put(self, value: torch.Tensor) -> None:
        """Called first with the ids of the prompt, then with each new id."""

    def end(self) -> None:
        """Called after the last id."""


def run_generation(
    model: PreTrainedModel,
    tokenizer: BaseTokenizer | PreTrainedTokenizerBase,
    prompt_text: str,
    device: torch.device | str | None = None,
    *,
    streamer: Streamer | None = None,
    **sampling: Any,
) -> tuple[list[int], str]:
    """Continues a prompt until the end token, `max_new_tokens` or the end of the model's positions.

    Args:
        device: the model is moved there; None leaves it where it is.
        streamer: receives the ids as they are generated; not allowed with beams.
        sampling: the fields of `Sampling`; the default is 50 tokens by greedy decoding.

    Returns:
        The ids, including those of the prompt, and their text without special tokens.

    Raises:
        GenerationSettingsError: a value is meaningless, or a streamer is combined with beams.
        PromptError: the prompt has no token, a token without an embedding row, or no position left after it.
    """
    choice = Sampling(**sampling)
    if streamer is not None and choice.num_beams > 1:
        raise GenerationSettingsError(
            f"{choice.num_beams} beams are compared until the end, so their text cannot be streamed; use num_beams=1"
        )
    fast = tokenizer.fast if isinstance(tokenizer, BaseTokenizer) else tokenizer
    prompt_ids = fast.encode(prompt_text)
    room = room_behind(prompt_ids, model)
    rules = choice.rules
    if room is not None:
        rules["max_new_tokens"] = min(choice.max_new_tokens, room)
    if device is not None:
        model = model.to(device)
    was_training = model.training
    ids_BT = torch.tensor([prompt_ids], device=model.device)
    devices = [model.device] if model.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices, enabled=choice.seed is not None):
            if choice.seed is not None:
                torch.manual_seed(choice.seed % _SEEDS)
            found_BT = model.eval().generate(
                ids_BT,
                attention_mask=torch.ones_like(ids_BT),
                generation_config=GenerationConfig(**rules, **_ends(model, fast)),
                streamer=streamer,
            )
    finally:
        model.train(was_training)
    ids: list[int] = found_BT[0].tolist()
    return ids, fast.decode(ids, skip_special_tokens=True)


def context_of(model: PreTrainedModel) -> int | None:
    """How many positions a model has; None if it has no limit."""
    config = model.config.get_text_config(decoder=True)
    found = None if getattr(config, "alibi", False) else getattr(config, "max_position_embeddings", None)
    return int(found) if found else None


def room_behind(prompt_ids: list[int], model: PreTrainedModel) -> int | None:
    """How many ids fit after a prompt; None if there is no limit. Raises PromptError."""
    rows = model.get_input_embeddings().weight.shape[0]
    if not prompt_ids:
        raise PromptError("the prompt has no token; give it some text")
    if max(prompt_ids) >= rows:
        raise PromptError(
            f"the tokenizer makes the id {max(prompt_ids)} of the prompt, the model has ids below {rows}; "
            "give the tokenizer that the model was trained with"
        )
    context = context_of(model)
    if context is not None and len(prompt_ids) >= context:
        raise PromptError(
            f"the prompt has {len(prompt_ids)} tokens, but the model has only {context} positions, so no token can "
            "follow; shorten the prompt"
        )
    return None if context is None else context - len(prompt_ids)


def _ends(model: PreTrainedModel, fast: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The end and padding ids: the end id from the model's generation config, else from the tokenizer."""
    named = model.generation_config
    end = fast.eos_token_id if named is None or named.eos_token_id is None else named.eos_token_id
    first = end[0] if isinstance(end, list) else end
    pad = fast.pad_token_id if fast.pad_token_id is not None else first
    return {"eos_token_id": end, "pad_token_id": 0 if pad is None else pad}
