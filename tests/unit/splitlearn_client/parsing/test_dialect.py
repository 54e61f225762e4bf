from typing import get_args

import pytest

from splitlearn_client.parsing import dialect
from splitlearn_client.parsing.dialect import Dialect, Prefix, dialect_of
from splitlearn_client.parsing.forms.deepseek import DeepSeek
from splitlearn_client.parsing.forms.gemma import Gemma
from splitlearn_client.parsing.forms.harmony import Harmony
from splitlearn_client.parsing.forms.hermes import Hermes
from splitlearn_client.parsing.forms.llama3 import Llama3
from splitlearn_client.parsing.forms.mistral import Mistral
from splitlearn_client.parsing.thoughts import THOUGHTS
from splitlearn_client.settings import ClientSettings
from splitlearn_client.text.tool_messages import WrittenCall
from support.taken_apart import called, taken_apart
from support.tiny_models import TEMPLATE
from support.tool_templates import FAMILIES

FORMS = {
    "hermes": Hermes,
    "llama3": Llama3,
    "mistral": Mistral,
    "mistral named": Mistral,
    "gemma": Gemma,
    "function gemma": Gemma,
    "harmony": Harmony,
    "deepseek": DeepSeek,
    "deepseek blocks": DeepSeek,
}
REASONING = {"hermes": "think", "mistral named": "mistral", "gemma": "gemma"}


@pytest.mark.parametrize("name", FORMS)
def test_the_template_shows_the_form_and_the_reasoning(name: str) -> None:
    found = dialect_of(FAMILIES[name].template, {})
    assert type(found.form) is FORMS[name]
    assert found.thoughts == THOUGHTS.get(REASONING.get(name, ""))


def test_the_settings_name_every_form_and_no_other() -> None:
    named = {
        field: set(get_args(ClientSettings.model_fields[field].annotation)) - {"auto", "none"}
        for field in ("tool_call_parser", "reasoning_parser")
    }
    assert named == {"tool_call_parser": set(dialect.FAMILIES), "reasoning_parser": {*THOUGHTS, "harmony"}}


def test_a_template_without_signs_has_no_dialect() -> None:
    assert dialect_of(TEMPLATE, {}) == Dialect(new_identity=dialect_of(TEMPLATE, {}).new_identity)
    assert dialect_of(TEMPLATE, {}).reading({}, Prefix()) is None


def test_a_setting_goes_before_what_the_template_shows() -> None:
    named = dialect_of(FAMILIES["hermes"].template, {}, "llama3", "none")
    assert type(named.form) is Llama3
    assert named.thoughts is None
    nothing = dialect_of(FAMILIES["hermes"].template, {}, "none", "none")
    assert nothing.form is nothing.thoughts is None
    assert dialect_of(TEMPLATE, {}, "gemma", "auto").form is not None
    assert dialect_of(TEMPLATE, {}, "auto", "harmony").is_harmony


FOREIGN = WrittenCall("f", "<|im_start|>assistant\n", '<tool_calls>[{"name": "f", "arguments": {}}]</tool_calls>')
HERMES = WrittenCall("f", "<|im_start|>assistant\n", '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>more')


def test_a_form_that_is_seen_but_does_not_read_what_the_template_writes_is_not_the_model_s() -> None:
    template = FAMILIES["hermes"].template
    assert type(dialect_of(template, {}, written=HERMES).form) is Hermes
    mistaken = dialect_of(template, {}, written=FOREIGN)
    assert mistaken.form is None
    assert mistaken.thoughts is not None


def test_a_form_that_a_setting_names_is_used_whatever_the_template_writes() -> None:
    template = FAMILIES["hermes"].template
    assert type(dialect_of(template, {}, "hermes", written=FOREIGN).form) is Hermes
    assert dialect_of(template, {}, "auto", "harmony", written=FOREIGN).is_harmony


def test_only_the_markers_that_are_special_tokens_are_shown() -> None:
    found = dialect_of(FAMILIES["mistral named"].template, {"[TOOL_CALLS]": 7, "[THINK]": 8, "<s>": 1})
    with_tools, without = found.reading({"f": {}}, Prefix()), found.reading({}, Prefix())
    assert with_tools is not None
    assert without is not None
    assert (with_tools.shown, without.shown) == ({7, 8}, {8})


@pytest.mark.parametrize(
    ("ending", "prefill", "thinks"),
    [
        ("<|im_start|>assistant\n", "", False),
        ("<|im_start|>assistant\n<think>\n", "", True),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", "", False),
        ("user\n<think> what is that?<|im_end|>\n<|im_start|>assistant\n", "", False),
        ("<think>\nwell", "<think>\nwell", True),
        ("</think>So", "<think>\nwell</think>So", False),
    ],
)
def test_an_answer_begins_with_reasoning_where_the_prompt_has_opened_it(
    ending: str, prefill: str, thinks: bool
) -> None:
    assert dialect_of(FAMILIES["hermes"].template, {}).thinks(Prefix(ending, prefill)) is thinks


def test_ids_of_calls_are_all_different_and_mistrals_have_nine_letters() -> None:
    for name, length in (("hermes", 29), ("mistral", 9)):
        made = {dialect_of(FAMILIES[name].template, {}).new_identity() for _ in range(20)}
        assert {len(each) for each in made} == {length}
        assert len(made) == 20


def test_each_answer_has_a_parser_of_its_own() -> None:
    found = dialect_of(FAMILIES["hermes"].template, {})
    text = '<tool_call>{"name": "f"}</tool_call>'
    assert called(taken_apart(found, [text])) == called(taken_apart(found, [text])) == [("f", "{}")]
