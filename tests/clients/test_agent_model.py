"""What the agents' model is trained on, and that it is the one that ships."""

from itertools import islice

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tests.clients.agent_model.accuracy import WEIGHTS
from tests.clients.agent_model.conversations import LEARNED, NEW, conversations
from tests.clients.agent_model.material import TEMPLATE, spelled


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(WEIGHTS, local_files_only=True, trust_remote_code=False)


def test_it_is_trained_on_the_text_that_its_chat_template_writes_of_tools_calls_and_results(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    assert tokenizer.chat_template == TEMPLATE.read_text(encoding="utf-8")
    for each in islice(conversations(LEARNED, "text"), 200):
        tools = list(each.tools) or None
        whole = tokenizer.apply_chat_template(list(each.messages), tools=tools, tokenize=False)
        assert tokenizer.apply_chat_template(spelled(each), tokenize=False) == whole


def test_no_wording_that_it_is_tested_with_was_learned() -> None:
    for kind in ("weather", "two_cities", "parcel", "capital", "country", "talk"):
        assert not set(getattr(NEW, kind)) & set(getattr(LEARNED, kind))


def test_equal_seeds_give_equal_conversations_and_others_do_not() -> None:
    first, again, other = (list(islice(conversations(NEW, seed), 5)) for seed in ("a", "a", "b"))
    assert first == again != other
