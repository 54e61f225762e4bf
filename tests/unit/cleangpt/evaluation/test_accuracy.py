import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from cleangpt.data.stdlib_questions import Question
from cleangpt.evaluation.accuracy import Accuracy, Miss, greedy_answers, measure_accuracy
from cleangpt.tokenizers.chat import prompt_ids


def test_the_line_counts_and_rounds() -> None:
    accuracy = Accuracy(8, (Miss("What?", "this", "that"),))
    assert accuracy.fraction == 0.875
    assert str(accuracy) == "7 of 8 trained questions answered exactly (87.50 %)"


def test_every_phrasing_is_asked_and_each_wrong_answer_is_listed_with_what_was_found(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    # with its weights at zero the model finds every token equally likely and says the first one: padding
    with torch.no_grad():
        tiny_model.get_input_embeddings().weight.zero_()
    silent, asked = Question("left", "talk", ""), Question("right", "function", "Go straight on.")
    accuracy = measure_accuracy(tiny_model, tiny_tokenizer, [silent, asked])
    assert accuracy.asked == 1 + len(asked.phrasings)
    assert {miss.prompt for miss in accuracy.misses} == set(asked.phrasings)
    assert {(miss.expected, miss.found) for miss in accuracy.misses} == {("Go straight on.", "")}


def test_an_answer_ends_at_the_limit_and_holds_no_special_tokens(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    [text] = greedy_answers(tiny_model, tiny_tokenizer, [prompt_ids(tiny_tokenizer, "left")], max_new_tokens=5)
    assert "<|" not in text
    assert len(tiny_tokenizer.encode(text)) <= 5
