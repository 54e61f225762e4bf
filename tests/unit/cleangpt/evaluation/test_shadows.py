from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from cleangpt.distillation.agreement import top1_agreement
from cleangpt.distillation.ends import ShadowedModel
from cleangpt.distillation.trunks import OpenTrunk, opened
from cleangpt.errors import TrunkMismatchError
from cleangpt.evaluation.evaluate import ANSWER_TOKENS, Subject, evaluate_model
from cleangpt.evaluation.shadows import ShadowSubject, evaluate_shadow
from cleangpt.evaluation.speed import size_of
from cleangpt.evaluation.texts import EvaluationText, TextChoice, read_evaluation_text
from cleangpt.model.shadow import Shadow, ShadowConfig
from cleangpt.tokenizers import BaseTokenizer, create_tokenizer


@pytest.fixture
def served(tiny_weights: Path) -> BaseTokenizer:
    return create_tokenizer(str(tiny_weights))


@pytest.fixture
def text(story: Path, served: BaseTokenizer) -> EvaluationText:
    return read_evaluation_text(TextChoice(str(story), block_size=16, batch_size=4, max_batches=2), served, 512)


def _subject(trunk: OpenTrunk) -> ShadowSubject:
    torch.manual_seed(0)
    config = ShadowConfig(64, width=32, num_hidden_layers=2, fingerprint=trunk.ends.fingerprint)
    size = None if trunk.part is None else size_of(trunk.part)
    shadow = Shadow(config)
    with torch.no_grad():
        shadow.exit.weight.normal_(std=0.1)
    return ShadowSubject("shadow", shadow, trunk.ends, trunk.teacher, size)


def test_bottom_shadow_and_top_are_measured_against_the_whole_model(
    tiny_weights: Path, tiny_llama: PreTrainedModel, served: BaseTokenizer, text: EvaluationText
) -> None:
    with opened(tiny_weights) as trunk:
        subject = _subject(trunk)
        report = evaluate_shadow(subject, served, text, is_compared=True)
        expected = top1_agreement(trunk.ends, trunk.teacher, subject.shadow, text.batches)
        sent_BTD = trunk.ends.hidden(torch.cat([batch.ids_BT for batch in text.batches]))
        answered_BTD = trunk.teacher.hidden(sent_BTD, [16] * len(sent_BTD))
        with torch.no_grad():
            found = [subject.shadow.after(sent_BTD, 0), subject.shadow(sent_BTD)]
    expected_errors = [float((each - answered_BTD).square().sum() / answered_BTD.square().sum()) for each in found]
    assert report.agreement is not None
    assert report.agreement.top_1 == pytest.approx(expected)
    assert [(each.student, each.target) for each in report.blocks] == [(0, "trunk"), (1, "trunk")]
    first, last = (each.relative_mse for each in report.blocks)
    assert (first, last) == pytest.approx(expected_errors, rel=1e-5)
    assert first != pytest.approx(last, rel=1e-4)
    whole = evaluate_model(Subject("whole", tiny_llama), served, text, is_compared=True)
    assert report.teacher is not None
    assert report.teacher.likelihood.loss == pytest.approx(whole.student.likelihood.loss, rel=1e-4)
    assert report.teacher.parameters == tiny_llama.num_parameters()
    assert report.teacher.bytes == 4 * tiny_llama.num_parameters()
    assert [each.teacher for each in report.comparisons] == [each.student for each in whole.comparisons]


def test_the_figures_are_those_of_the_three_parts(
    tiny_weights: Path, tiny_llama: PreTrainedModel, served: BaseTokenizer, text: EvaluationText
) -> None:
    with opened(tiny_weights) as trunk:
        subject = _subject(trunk)
        report = evaluate_shadow(subject, served, text)
        assert trunk.part is not None
        trunk_parameters = size_of(trunk.part).parameters
    n_parameters = tiny_llama.num_parameters() - trunk_parameters + subject.shadow.n_parameters
    assert report.student.parameters == n_parameters
    assert report.student.tokens_per_second is not None


def test_a_shadow_that_passes_on_what_it_gets_has_the_error_of_no_trunk(
    tiny_weights: Path, served: BaseTokenizer, text: EvaluationText
) -> None:
    with opened(tiny_weights) as trunk:
        fresh = Shadow(ShadowConfig(64, width=32, fingerprint=trunk.ends.fingerprint))
        report = evaluate_shadow(ShadowSubject("s", fresh, trunk.ends, trunk.teacher), served, text)
        ids_BT = text.batches[0].ids_BT
        sent_BTD = trunk.ends.hidden(ids_BT)
        one = evaluate_shadow(
            ShadowSubject("s", fresh, trunk.ends, trunk.teacher),
            served,
            EvaluationText("first", text.batches[:1], 1.0, ()),
        )
        answered_BTD = trunk.teacher.hidden(sent_BTD, [16] * len(ids_BT))
    expected = (sent_BTD - answered_BTD).square().sum() / answered_BTD.square().sum()
    assert one.blocks[0].relative_mse == pytest.approx(float(expected), rel=1e-4)
    assert report.teacher is not None
    assert report.teacher.parameters is None


def test_a_shadow_of_another_cut_is_refused(tiny_weights: Path, served: BaseTokenizer, text: EvaluationText) -> None:
    with opened(tiny_weights, "2-4") as other:
        subject = _subject(other)
    with opened(tiny_weights) as trunk, pytest.raises(TrunkMismatchError):
        evaluate_shadow(ShadowSubject("s", subject.shadow, trunk.ends, trunk.teacher), served, text)
    with opened(tiny_weights) as trunk, pytest.raises(TrunkMismatchError, match="the trunk is for"):
        evaluate_shadow(ShadowSubject("s", _subject(trunk).shadow, trunk.ends, other.teacher), served, text)


def test_a_shadows_continuation_is_that_of_its_likeliest_ids(
    tiny_weights: Path, served: BaseTokenizer, text: EvaluationText
) -> None:
    with opened(tiny_weights) as trunk:
        subject = _subject(trunk)
        [prompt, *_] = text.prompts
        ids = served.encode(prompt)
        n_prompt, model = len(ids), ShadowedModel(trunk.ends, subject.shadow)
        while len(ids) < n_prompt + ANSWER_TOKENS:
            # no cache: all of the text anew for every id
            ids.append(int(model.step(torch.tensor(ids), model.new_cache()).argmax()))
        report = evaluate_shadow(subject, served, text, is_compared=True)
    assert report.comparisons[0].student == served.fast.decode(ids[n_prompt:], skip_special_tokens=True)


def test_a_continuation_is_as_long_as_asked_for_and_ends_with_the_positions(
    tiny_weights: Path, served: BaseTokenizer, text: EvaluationText
) -> None:
    served.fast.eos_token = None
    with opened(tiny_weights) as trunk:
        context = trunk.ends.bottom.context_length
        assert context is not None
        words = "A cat sat on a mat. " * context
        # as long as leaves room for a few tokens
        prompt = next(words[:end] for end in range(len(words)) if len(served.encode(words[:end])) == context - 6)
        text = replace(text, prompts=(prompt,))
        short, full, longer = (
            evaluate_shadow(_subject(trunk), served, text, is_compared=True, max_new_tokens=wanted).comparisons[0]
            for wanted in (2, 6, 40)
        )
    assert full == longer
    assert 0 < len(short.student) < len(full.student)


def test_a_continuation_ends_at_the_end_token(tiny_weights: Path, served: BaseTokenizer, text: EvaluationText) -> None:
    with opened(tiny_weights) as trunk:
        subject = _subject(trunk)
        [free, *_] = evaluate_shadow(subject, served, text, is_compared=True).comparisons
        ids = served.encode(text.prompts[0])
        model = ShadowedModel(trunk.ends, subject.shadow)
        for _ in range(3):
            ids.append(int(model.step(torch.tensor(ids), model.new_cache()).argmax()))
        served.fast.eos_token = served.fast.convert_ids_to_tokens(ids[-1])
        [ended, *_] = evaluate_shadow(subject, served, text, is_compared=True).comparisons
    assert len(ended.student) < len(free.student)
