from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, PreTrainedModel, RwkvConfig

from cleangpt.errors import TokenizersDifferError, VocabularyMismatchError
from cleangpt.evaluation.evaluate import Subject, evaluate_model, refuse_other_tokens
from cleangpt.evaluation.texts import EvaluationText, TextChoice, read_evaluation_text
from cleangpt.inference.generation import run_generation
from cleangpt.tokenizers import BaseTokenizer, create_tokenizer
from splitlearn.errors import UnsupportedModel


@pytest.fixture
def text(story: Path, tokenizer: BaseTokenizer) -> EvaluationText:
    return read_evaluation_text(TextChoice(str(story), batch_size=4, max_batches=2), tokenizer, 32)


def test_a_student_is_measured_beside_its_teacher(
    student: PreTrainedModel, teacher: PreTrainedModel, tokenizer: BaseTokenizer, text: EvaluationText
) -> None:
    report = evaluate_model(
        Subject("s", student),
        tokenizer,
        text,
        Subject("t", teacher),
        block_map=(0, 3),
        is_compared=True,
        max_new_tokens=12,
    )
    assert (report.student.parameters, report.student.tokens_per_second is None) == (student.num_parameters(), False)
    assert report.teacher is not None
    assert report.teacher.parameters == teacher.num_parameters()
    alone = evaluate_model(Subject("t", teacher), tokenizer, text)
    assert report.teacher.likelihood == alone.student.likelihood
    assert report.teacher.likelihood.tokens == report.student.likelihood.tokens == 2 * 4 * 31
    assert report.agreement is not None
    assert report.agreement.positions == 2 * 4 * 31
    assert [each.teacher for each in report.blocks] == [0, 3]
    assert len(report.comparisons) == 5
    assert report.note is None
    prompt = report.comparisons[0].prompt
    expected = run_generation(teacher, tokenizer, prompt, max_new_tokens=12)[0][len(tokenizer.encode(prompt)) :]
    assert report.comparisons[0].teacher == tokenizer.fast.decode(expected, skip_special_tokens=True)


def test_continuations_that_slide_are_said_for_each_model(
    student: PreTrainedModel, teacher: PreTrainedModel, tokenizer: BaseTokenizer, text: EvaluationText
) -> None:
    for model in (student, teacher):
        model.generation_config.eos_token_id = None
    endless = create_tokenizer("character", texts=["A cat sat on a mat. The dog saw it. "])
    endless.fast.eos_token = None
    report = evaluate_model(
        Subject("s", student), endless, text, Subject("t", teacher), is_compared=True, max_new_tokens=17
    )
    assert report.note is not None
    assert "continuations of s: 5 of 5 texts became longer than the model's 32 positions" in report.note
    assert "; continuations of t: 5 of 5 texts" in report.note
    assert report.note in report.table()


def test_a_teacher_beside_itself_agrees_in_everything(
    teacher: PreTrainedModel, tokenizer: BaseTokenizer, text: EvaluationText
) -> None:
    report = evaluate_model(Subject("s", teacher), tokenizer, text, Subject("t", teacher))
    assert report.agreement is not None
    assert report.agreement.top_1 == 1
    assert {each.relative_mse for each in report.blocks} == {0.0}
    assert report.comparisons == ()


def test_a_model_alone_has_figures_and_its_own_continuations(
    teacher: PreTrainedModel, tokenizer: BaseTokenizer, text: EvaluationText
) -> None:
    report = evaluate_model(Subject("s", teacher), tokenizer, text, is_compared=True)
    assert report.teacher is report.agreement is None
    assert report.blocks == ()
    assert {each.teacher for each in report.comparisons} == {None}
    assert report.student.bits_per_byte == report.student.likelihood.bits_per_byte(text.tokens_per_byte)


def test_unequal_vocabularies_are_refused_with_both_sizes(
    student: PreTrainedModel, teacher: PreTrainedModel, tokenizer: BaseTokenizer, text: EvaluationText
) -> None:
    teacher.resize_token_embeddings(24)
    with pytest.raises(VocabularyMismatchError, match=r"20 entries.*24"):
        evaluate_model(Subject("s", student), tokenizer, text, Subject("t", teacher))


def test_tokenizers_have_to_give_the_same_ids() -> None:
    one, longer, other = (create_tokenizer("character", texts=[letters]) for letters in ("abc", "abcd", "abd"))
    refuse_other_tokens(one, create_tokenizer("character", texts=["cba"]))
    with pytest.raises(VocabularyMismatchError, match=r"5 entries.*6|6 entries.*7"):
        refuse_other_tokens(one, longer)
    with pytest.raises(TokenizersDifferError, match=r"1 of \d tokens.*'c'"):
        refuse_other_tokens(one, other)


def test_a_model_that_has_no_blocks_is_measured_alone_and_not_beside_another(
    teacher: PreTrainedModel, tokenizer: BaseTokenizer, text: EvaluationText
) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "attention_hidden_size": 16, "intermediate_size": 32}
    config = RwkvConfig(vocab_size=teacher.config.vocab_size, context_length=32, **sizes)
    model = AutoModelForCausalLM.from_config(config)
    report = evaluate_model(Subject("rwkv", model), tokenizer, text)
    assert report.student.likelihood.tokens == 2 * 4 * 31
    for pair in ((model, teacher), (teacher, model)):
        first, second = (Subject("some", each) for each in pair)
        with pytest.raises(UnsupportedModel, match=r"rwkv: .* measure each alone"):
            evaluate_model(first, tokenizer, text, second)
