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
from cleangpt.inference.generation import run_generation
from cleangpt.tokenizers import BaseTokenizer

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
) -> Report:
    """Measures everything in a report. Both models must be on the same device, and stay there.

    Args:
        block_map: the teacher block for each student block; None spreads them evenly.
        is_compared: let both models continue the text's prompts.

    Raises:
        VocabularyMismatchError: the vocabularies have different sizes; nothing was measured.
        BlockMapError, EmptyDataError, PromptError: see each error.
    """
    own = Blocks(student.model.eval())
    others = Blocks(teacher.model.eval()) if teacher else None
    if others is not None and others.vocab_size != own.vocab_size:
        raise VocabularyMismatchError(student=own.vocab_size, teacher=others.vocab_size)
    batches = [batch.to(student.model.device) for batch in text.batches]
    found = measure_predictions(own, others, batches)
    comparisons: tuple[Comparison, ...] = ()
    if is_compared:
        comparisons = tuple(_comparison(prompt, student, teacher, tokenizer) for prompt in text.prompts)
    figures = _figures(student, text, found.student)
    if teacher is None or found.teacher is None:
        return Report(text.name, figures, comparisons=comparisons, note=text.note)
    return Report(
        text.name,
        figures,
        _figures(teacher, text, found.teacher),
        found.agreement,
        block_errors(student.model, teacher.model, batches, block_map),
        comparisons,
        text.note,
    )


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


def _comparison(prompt: str, student: Subject, teacher: Subject | None, tokenizer: BaseTokenizer) -> Comparison:
    n_prompt = len(tokenizer.fast.encode(prompt))

    def answer(model: PreTrainedModel) -> str:
        ids, _ = run_generation(model, tokenizer, prompt, max_new_tokens=ANSWER_TOKENS)
        text: str = tokenizer.fast.decode(ids[n_prompt:], skip_special_tokens=True)
        return text

    return Comparison(prompt, answer(student.model), answer(teacher.model) if teacher else None)
