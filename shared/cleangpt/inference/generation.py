"""Continues prompts with transformers' `generate`, behind the model's last position too.

Shapes: B texts, T positions.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from cleangpt.errors import GenerationSettingsError, PromptError
from cleangpt.inference.sampling import Sampling
from cleangpt.inference.windows import GrowingText
from cleangpt.model.context import context_of
from cleangpt.tokenizers import BaseTokenizer

# of torch's generators
_SEEDS = 2**64


class ContextSlides(UserWarning):
    """A text is longer than the model's context, so the model no longer reads its start."""


class Streamer(Protocol):
    """Receives ids as they are generated, such as transformers' `TextStreamer`."""

    def put(self, value: torch.Tensor) -> None:
        """Called first with the ids of the prompt, then with each new id."""

    def end(self) -> None:
        """Called after the last id."""


@dataclass(frozen=True)
class Continuation:
    """A continued prompt: its ids, of which the first `n_prompt` are the prompt's, and their text without special
    tokens. `has_slid` says whether it became longer than the model's context.
    """

    ids: list[int]
    n_prompt: int
    text: str
    has_slid: bool


def run_generation(
    model: PreTrainedModel,
    tokenizer: BaseTokenizer | PreTrainedTokenizerBase,
    prompt_text: str,
    device: torch.device | str | None = None,
    *,
    streamer: Streamer | None = None,
    **sampling: Any,
) -> tuple[list[int], str]:
    """Continues a prompt until the end token or `max_new_tokens`; `slide=False` ends it with the model's positions too.

    Warns with ContextSlides if the text became longer than the model's context.

    Args:
        device: the model is moved there; None leaves it where it is.
        streamer: receives the ids as they are generated; not allowed with beams.
        sampling: the fields of `Sampling`; the default is 50 tokens by greedy decoding.

    Returns:
        The ids, including those of the prompt, and their text without special tokens.

    Raises:
        GenerationSettingsError: a value is meaningless, or beams are combined with a streamer or a text that slides.
        PromptError: the prompt has no token, or a token without an embedding row; with `slide=False`, no position is
            left after it.
    """
    [found] = continuations(model, tokenizer, [prompt_text], device, Sampling(**sampling), streamer=streamer)
    _warn([found], model)
    return found.ids, found.text


def batch_generate(
    model: PreTrainedModel,
    tokenizer: BaseTokenizer | PreTrainedTokenizerBase,
    prompts: Sequence[str],
    device: torch.device | str | None = None,
    **sampling: Any,
) -> list[tuple[list[int], str]]:
    """Continues several prompts in one batch; see `run_generation` for the arguments, results and errors.

    Without sampling, each result is that of `run_generation` up to rounding, if the model's type leaves padding out
    (rwkv does not). A PromptError says which prompt it is about, and then none is continued. Beams are searched for one
    prompt after the other.
    """
    if isinstance(prompts, str):
        raise PromptError("prompts is one text; give a list of texts, or call run_generation")
    found = continuations(model, tokenizer, prompts, device, Sampling(**sampling))
    _warn(found, model)
    return [(each.ids, each.text) for each in found]


def continuations(
    model: PreTrainedModel,
    tokenizer: BaseTokenizer | PreTrainedTokenizerBase,
    prompts: Sequence[str],
    device: torch.device | str | None,
    choice: Sampling,
    *,
    streamer: Streamer | None = None,
) -> list[Continuation]:
    """Continues the prompts and says of each whether it slid; see `run_generation`. A streamer is for one prompt."""
    if streamer is not None and choice.num_beams > 1:
        raise GenerationSettingsError(
            f"{choice.num_beams} beams are compared until the end, so their text cannot be streamed; use num_beams=1"
        )
    fast = tokenizer.fast if isinstance(tokenizer, BaseTokenizer) else tokenizer
    for number, prompt in enumerate(prompts, 1):
        if not isinstance(prompt, str):
            raise PromptError(f"prompt {number} of {len(prompts)} is {type(prompt).__name__}; give its text")
    asked, context = [fast.encode(prompt) for prompt in prompts], context_of(model)
    for number, ids in enumerate(asked, 1):
        _check(ids, model, context, choice, "the prompt" if len(asked) == 1 else f"prompt {number} of {len(asked)}")
    texts = [GrowingText(list(ids), choice.max_new_tokens, context, choice.slide) for ids in asked]
    if device is not None:
        model = model.to(device)
    together = [texts] if choice.num_beams == 1 else [[each] for each in texts]
    once = None if streamer is None else _Once(streamer, asked[0])
    with _evaluating(model), _seeded(choice.seed, model.device):
        for each in together:
            _grow(model, each, choice, _ends(model, fast), once)
    if streamer is not None:
        streamer.end()
    return [
        Continuation(text.ids, len(ids), fast.decode(text.ids, skip_special_tokens=True), text.has_slid)
        for text, ids in zip(texts, asked, strict=True)
    ]


def sliding_note(found: Sequence[Continuation], model: PreTrainedModel) -> str | None:
    """What has to be said about texts that became longer than the model's context; None if none did."""
    slid, context = [each for each in found if each.has_slid], context_of(model)
    if not slid or context is None:
        return None
    which = "the text became" if len(found) == 1 else f"{len(slid)} of {len(found)} texts became"
    note = f"{which} longer than the model's {context} positions; "
    if any(each.n_prompt >= context for each in slid):
        note += f"of a prompt that long, the model read the last {context // 2} tokens alone, and "
    return note + f"each time that the positions were full, it went on from the last {context // 2} tokens"


def _warn(found: Sequence[Continuation], model: PreTrainedModel) -> None:
    if note := sliding_note(found, model):
        # at the line that called run_generation or batch_generate
        warnings.warn(f"{note}; slide=False ends texts there", ContextSlides, stacklevel=3)


def _check(ids: Sequence[int], model: PreTrainedModel, context: int | None, choice: Sampling, prompt: str) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    if not ids:
        raise PromptError(f"{prompt} has no token; give it some text")
    if max(ids) >= rows:
        raise PromptError(
            f"the tokenizer makes the id {max(ids)} of {prompt}, the model has ids below {rows}; "
            "give the tokenizer that the model was trained with"
        )
    if context is None:
        return
    room = context - len(ids)
    # half of a single position is none
    if room < 1 and (not choice.slide or context < 2):
        raise PromptError(
            f"{prompt} has {len(ids)} tokens, but the model has only {context} positions, so no token can "
            "follow; shorten the prompt, or let the text slide"
        )
    if choice.num_beams > 1 and choice.slide and room < choice.max_new_tokens:
        raise GenerationSettingsError(
            f"{choice.num_beams} beams are compared from the prompt to the end, so their text cannot slide: {prompt} "
            f"leaves {max(0, room)} of the model's {context} positions, and {choice.max_new_tokens} tokens are to "
            "follow; ask for fewer, use num_beams=1, or end the text there with slide=False"
        )


def _grow(
    model: PreTrainedModel,
    texts: Sequence[GrowingText],
    choice: Sampling,
    ends: dict[str, Any],
    streamer: Streamer | None,
) -> None:
    """Continues the texts side by side: in one call until the first window is full, then on with all windows."""
    end = ends["eos_token_id"]
    ending = end if isinstance(end, list) else [] if end is None else [end]
    while growing := [each for each in texts if each.room]:
        rules = {**choice.rules, "max_new_tokens": min(each.room for each in growing)}
        windows = [each.window for each in growing]
        width = max(map(len, windows))
        # filled up with an id of the same text: not every version's repetition penalty leaves padding out
        rows = [[each[0]] * (width - len(each)) + each for each in windows]
        marks = [[0] * (width - len(each)) + [1] * len(each) for each in windows]
        found_BT = model.generate(
            torch.tensor(rows, device=model.device),
            attention_mask=torch.tensor(marks, device=model.device),
            generation_config=GenerationConfig(**rules, **ends),
            streamer=streamer,
        )
        for text, ids in zip(growing, found_BT[:, width:].tolist(), strict=True):
            text.add(ids, ending)


class _Once:
    """Passes on the prompt once, where `generate` puts each window, and no end."""

    def __init__(self, streamer: Streamer, prompt_ids: Sequence[int]) -> None:
        self._streamer = streamer
        self._prompt_ids: Sequence[int] | None = prompt_ids

    def put(self, value: torch.Tensor) -> None:
        # a window has a dimension for the batch, new ids have it alone
        if value.ndim == 1:
            self._streamer.put(value)
        elif self._prompt_ids is not None:
            self._streamer.put(torch.tensor([self._prompt_ids]))
            self._prompt_ids = None

    def end(self) -> None:
        """Whoever generates window after window says when the last one has ended."""


@contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@contextmanager
def _seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else [], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed % _SEEDS)
        yield


def _ends(model: PreTrainedModel, fast: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The end and padding ids: the end id from the model's generation config, else from the tokenizer."""
    named = model.generation_config
    end = fast.eos_token_id if named is None or named.eos_token_id is None else named.eos_token_id
    first = end[0] if isinstance(end, list) else end
    pad = fast.pad_token_id if fast.pad_token_id is not None else first
    return {"eos_token_id": end, "pad_token_id": 0 if pad is None else pad}
