"""Measures a whole model on a text, next to its teacher if it has one."""

from dataclasses import dataclass

from transformers import PreTrainedModel

from cleangpt.distillation.blocks import Blocks
from cleangpt.errors import TokenizersDifferError, VocabularyMismatchError
from cleangpt.evaluation.hidden_errors import block_errors
from cleangpt.evaluation.predictions import Likelihood, measure_predictions
from cleangpt.evaluation.report import Comparison, Figures, Report
from cleangpt.evaluation.speed import Size, size_of, tokens_per_second
from cleangpt.evaluation.texts import EvaluationText
from cleangpt.inference.generation import continuations, sliding_note
from cleangpt.inference.sampling import Sampling
from cleangpt.tokenizers import BaseTokenizer
from splitlearn.errors import UnsupportedModel
from splitlearn.model.layout import inspect_model

ANSWER_TOKENS = 32


@dataclass(frozen=True, eq=False)
class Subject:
    """A whole model and its name in the report."""

    name: str
    model: PreTrainedModel


def evaluate_model(
    student: Subject,
    tokenizer: BaseTokenizer,
    text: EvaluationText,
    teacher: Subject | None = None,
    *,
    block_map: tuple[int, ...] | None = None,
    is_compared: bool = False,
    max_new_tokens: int = ANSWER_TOKENS,
) -> Report:
    """Measures everything in a report. Both models must be on the same device, and stay there.

    Args:
        block_map: the teacher block for each student block; None spreads them evenly.
        is_compared: let both models continue the text's prompts, by `max_new_tokens` tokens.

    Raises:
        VocabularyMismatchError: the vocabularies have different sizes; nothing was measured.
        UnsupportedModel: one of the two has no blocks that could be compared; nothing was measured.
        BlockMapError, EmptyDataError, PromptError: see each error.
    """
    own = Blocks(student.model.eval())
    others = Blocks(teacher.model.eval()) if teacher else None
    if others is not None:
        _check_comparable(own, others)
    batches = [batch.to(student.model.device) for batch in text.batches]
    found = measure_predictions(own, others, batches)
    answers = _answers(text.prompts, student, teacher, tokenizer, max_new_tokens) if is_compared else _Answers()
    figures = _figures(student, text, found.student)
    note = "; ".join(each for each in (text.note, *answers.notes) if each) or None
    if teacher is None or found.teacher is None:
        return Report(text.name, figures, comparisons=answers.comparisons, note=note)
    return Report(
        text.name,
        figures,
        _figures(teacher, text, found.teacher),
        found.agreement,
        block_errors(student.model, teacher.model, batches, block_map),
        answers.comparisons,
        note,
    )


def _check_comparable(student: Blocks, teacher: Blocks) -> None:
    if teacher.vocab_size != student.vocab_size:
        raise VocabularyMismatchError(student=student.vocab_size, teacher=teacher.vocab_size)
    for each in (student, teacher):
        try:
            inspect_model(each.model)
        except UnsupportedModel as error:
            raise UnsupportedModel(f"{error}, so it is not compared with another model; measure each alone") from error


def refuse_other_tokens(student: BaseTokenizer, teacher: BaseTokenizer) -> None:
    """Checks that every id means the same token to both models, so that they can be compared.

    Raises:
        VocabularyMismatchError: the vocabularies have different sizes.
        TokenizersDifferError: they have the same size but different tokens.
    """
    own, others = student.fast.get_vocab(), teacher.fast.get_vocab()
    if len(own) != len(others):
        raise VocabularyMismatchError(student=len(own), teacher=len(others))
    if own != others:
        differing = sorted(own.items() - others.items(), key=lambda each: each[1])
        token, number = differing[0]
        raise TokenizersDifferError(
            f"{len(differing)} of {len(own)} tokens have another id or are missing in the teacher's tokenizer, the "
            f"first is {token!r} ({number} here, {others.get(token)} there); give the student the teacher's tokenizer"
        )


def figures_of(
    name: str, text: EvaluationText, likelihood: Likelihood, size: Size | None, speed: float | None
) -> Figures:
    """The results for one model, as the report contains them."""
    n_parameters, n_bytes = (size.parameters, size.bytes) if size else (None, None)
    return Figures(name, likelihood, likelihood.bits_per_byte(text.tokens_per_byte), n_parameters, n_bytes, speed)


def _figures(subject: Subject, text: EvaluationText, likelihood: Likelihood) -> Figures:
    return figures_of(subject.name, text, likelihood, size_of(subject.model), tokens_per_second(subject.model))


@dataclass(frozen=True)
class _Answers:
    """The comparisons, and what has to be said about their length."""

    comparisons: tuple[Comparison, ...] = ()
    notes: tuple[str, ...] = ()


def _answers(
    prompts: tuple[str, ...], student: Subject, teacher: Subject | None, tokenizer: BaseTokenizer, n_tokens: int
) -> _Answers:
    """The greedy continuations of all prompts by both models."""
    texts, notes = [], []
    for subject in [student, *([teacher] if teacher else [])]:
        # one by one: not every type of transformers reads the same behind padding
        found = [continuations(subject.model, tokenizer, [each], None, Sampling(n_tokens))[0] for each in prompts]
        texts.append([tokenizer.fast.decode(each.ids[each.n_prompt :], skip_special_tokens=True) for each in found])
        if note := sliding_note(found, subject.model):
            notes.append(f"continuations of {subject.name}: {note}")
    return _Answers(tuple(Comparison(*each) for each in zip(prompts, *texts, strict=True)), tuple(notes))
