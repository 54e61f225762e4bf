"""What templates of the families' forms write for a call, and which forms read it."""

import pytest

from splitlearn_client.parsing.dialect import dialect_of
from splitlearn_client.text.call_probe import written_call
from splitlearn_client.text.chat_template import ChatTemplate
from support.tiny_models import TEMPLATE
from support.tool_templates import FAMILIES


@pytest.mark.parametrize("name", FAMILIES)
def test_the_form_of_each_family_reads_what_its_template_writes(name: str) -> None:
    source = FAMILIES[name].template
    written = written_call(ChatTemplate(source, {}))
    assert written is not None
    assert dialect_of(source, {}).reads(written)
    assert dialect_of(source, {}, written=written).form is not None


def test_the_answer_is_told_from_what_is_before_it_and_from_its_end() -> None:
    written = written_call(ChatTemplate(FAMILIES["hermes"].template, {}))
    assert written is not None
    assert written.before.endswith("<|im_start|>assistant\n")
    arguments = '{"zqkey": "zqvalue"}'
    assert written.text == f'<tool_call>\n{{"name": "{written.name}", "arguments": {arguments}}}\n</tool_call>'


def test_a_template_without_tools_writes_no_call() -> None:
    assert written_call(ChatTemplate(TEMPLATE, {})) is None


def test_a_template_that_leaves_calls_out_writes_none() -> None:
    told = "{% for tool in tools or [] %}{{ tool.function.name }}{% endfor %}"
    source = told + "{% for m in messages %}{{ m.content }}{% endfor %}"
    assert written_call(ChatTemplate(source, {})) is None
