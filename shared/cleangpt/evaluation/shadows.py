"""Measures a shadow: compares bottom, shadow and top with bottom, trunk and top.

Shapes: B rows, T positions, D hidden size, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cleangpt.data.batches import Batch
from cleangpt.distillation.ends import Ends, ShadowedModel
from cleangpt.distillation.teacher import TrunkTeacher
from cleangpt.distillation.text import lengths, present
from cleangpt.evaluation.evaluate import ANSWER_TOKENS, figures_of
from cleangpt.evaluation.hidden_errors import BlockError, row_errors
from cleangpt.evaluation.predictions import measure_predictions
from cleangpt.evaluation.report import Comparison, Report
from cleangpt.evaluation.speed import Size, pace, size_of
from cleangpt.evaluation.texts import EvaluationText
from cleangpt.model.shadow import Shadow
from cleangpt.tokenizers import BaseTokenizer

_TIMED = 32


@dataclass(frozen=True, eq=False)
class WholeOfParts:
    """Bottom, trunk and top as one model, with the predictions of the whole model."""

    ends: Ends
    trunk: TrunkTeacher

    def logits(self, batch: Batch) -> Tensor:
        """The logits at the predicting positions, [N, V]."""
        return self.ends.logits(self.trunk.hidden(self.ends.hidden(batch.ids_BT), lengths(batch)), batch)

    def next_logits(self, ids_T: Tensor) -> Tensor:
        """The logits for the id after `ids_T`, [V]; recomputed from the start, without a cache."""
        hidden_BTD = self.trunk.hidden(self.ends.hidden(ids_T[None]), [len(ids_T)])
        return torch.as_tensor(self.ends.top.run(hidden_BTD.to(self.ends.top.dtype)).logits[0, -1])


@dataclass(frozen=True, eq=False)
class ShadowSubject:
    """A shadow with the ends that it fits and the trunk that it replaces.

    `trunk_size` is None if the trunk is remote.
    """

    name: str
    shadow: Shadow
    ends: Ends
    trunk: TrunkTeacher
    trunk_size: Size | None = None


@torch.no_grad()
def evaluate_shadow(
    subject: ShadowSubject,
    tokenizer: BaseTokenizer,
    text: EvaluationText,
    *,
    is_compared: bool = False,
    max_new_tokens: int = ANSWER_TOKENS,
) -> Report:
    """Measures everything in a report; `blocks` compares the rows after each of the shadow's layers with the trunk's.

    Size and speed are those of all three parts together. The speed of the whole model is not measured, because a remote
    trunk is only as fast as the network. Continuations have `max_new_tokens` tokens, or end with the positions.

    Raises:
        TrunkMismatchError: the trunk or the shadow is for other ends; nothing was measured.
    """
    ends = subject.ends
    ends.check(subject.trunk.fingerprint, "the trunk")
    student, whole = ShadowedModel(ends, subject.shadow), WholeOfParts(ends, subject.trunk)
    found = measure_predictions(student, whole, text.batches)
    size, speed = size_of(ends.bottom, subject.shadow, ends.top), _speed(student)
    figures = figures_of(f"{subject.name} as trunk", text, found.student, size, speed)
    others = None
    if found.teacher is not None:
        whole_size = subject.trunk_size and _together(size_of(ends.bottom, ends.top), subject.trunk_size)
        others = figures_of("whole model", text, found.teacher, whole_size, None)
    blocks = _layer_errors(subject, text.batches)
    comparisons: tuple[Comparison, ...] = ()
    if is_compared:
        limit = ends.bottom.context_length
        comparisons = tuple(
            _comparison(prompt, student, whole, tokenizer, max_new_tokens, limit) for prompt in text.prompts
        )
    return Report(text.name, figures, others, found.agreement, blocks, comparisons, text.note)


def _layer_errors(subject: ShadowSubject, batches: Sequence[Batch]) -> tuple[BlockError, ...]:
    n_layers, shadow = subject.shadow.config.num_hidden_layers, subject.shadow

    def rows(layer: int) -> Iterator[tuple[Tensor, Tensor]]:
        for batch, (sent_BTD, answered_BTD) in zip(batches, asked, strict=True):
            counts_BT = present(batch)
            yield shadow.after(sent_BTD.to(shadow.dtype), layer)[counts_BT], answered_BTD[counts_BT]

    sent = [subject.ends.hidden(batch.ids_BT) for batch in batches]
    answered = [subject.trunk.hidden(each, lengths(batch)) for each, batch in zip(sent, batches, strict=True)]
    asked = list(zip(sent, answered, strict=True))
    return tuple(row_errors(rows(layer), layer, None) for layer in range(n_layers))


def _speed(model: ShadowedModel) -> float:
    def go_on() -> None:
        cache, ids_T = model.new_cache(), torch.zeros(1, dtype=torch.long)
        for _ in range(_TIMED):
            ids_T = model.step(ids_T, cache).argmax(-1, keepdim=True)

    return pace(go_on, _TIMED)


def _comparison(
    prompt: str,
    student: ShadowedModel,
    whole: WholeOfParts,
    tokenizer: BaseTokenizer,
    n_tokens: int,
    context: int | None,
) -> Comparison:
    prompt_ids, cache = tokenizer.fast.encode(prompt), student.new_cache()
    n_tokens = n_tokens if context is None else max(0, min(n_tokens, context - len(prompt_ids)))

    def step(ids: list[int]) -> Tensor:
        return student.step(torch.tensor(ids[cache.n_rows :]), cache)

    def anew(ids: list[int]) -> Tensor:
        return whole.next_logits(torch.tensor(ids))

    own, others = (_likeliest(next_V, prompt_ids, tokenizer, n_tokens) for next_V in (step, anew))
    return Comparison(prompt, own, others)


def _likeliest(
    next_V: Callable[[list[int]], Tensor], prompt_ids: list[int], tokenizer: BaseTokenizer, n_tokens: int
) -> str:
    """The greedy continuation. transformers cannot generate with parts of a model, so this function does."""
    ids = list(prompt_ids)
    for _ in range(n_tokens):
        ids.append(int(next_V(ids).argmax()))
        if ids[-1] == tokenizer.end_id:
            break
    text: str = tokenizer.fast.decode(ids[len(prompt_ids) :], skip_special_tokens=True)
    return text


def _together(one: Size, other: Size) -> Size:
    return Size(one.parameters + other.parameters, one.bytes + other.bytes)
