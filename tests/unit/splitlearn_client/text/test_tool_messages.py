"""Tools, calls and their results in chat templates of the families' forms."""

import json
from typing import Any

import pytest

from splitlearn_client.errors import BadRequest
from splitlearn_client.text.chat_template import ChatTemplate, Rendering
from splitlearn_client.text.tool_messages import reasoning_names, shows_arguments
from support.tiny_models import TEMPLATE
from support.tool_templates import FAMILIES

LONG = 1 << 20
TOOL = {"type": "function", "function": {"name": "get_time", "description": "", "parameters": {"type": "object"}}}
TOLD = "{% for tool in tools or [] %}{{ tool.function.name }}{% endfor %}"
USER = {"role": "user", "content": "hi"}


def call(**arguments: Any) -> dict[str, Any]:
    function = {"name": "get_time", "arguments": arguments}
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "abcdefghi", "type": "function", "function": function}],
    }


RESULT = {"role": "tool", "content": "noon", "tool_call_id": "abcdefghi"}


def render(source: str, *messages: dict[str, Any], tools: tuple[Any, ...] = (TOOL,)) -> str:
    return ChatTemplate(source, {}).render(messages, LONG, Rendering(tools=tools))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_call_and_its_result_are_rendered_in_the_form_that_the_template_takes(name: str) -> None:
    text = render(FAMILIES[name].template, USER, call(zone="UTC"), RESULT)
    assert text.count("get_time") == 2
    assert text.index("UTC") < text.index("noon")
    assert "{'" not in text
    assert shows_arguments(text.replace("zone", "zqkey"))
    # the same without tools, as when the choice is none
    assert "get_time" in render(FAMILIES[name].template, USER, call(zone="UTC"), RESULT, tools=())


@pytest.mark.parametrize("source", [TEMPLATE, "{% if tools %}{% endif %}" + TEMPLATE])
def test_a_template_that_leaves_tools_out_is_not_given_any(source: str) -> None:
    with pytest.raises(BadRequest, match="leaves this tool out") as refused:
        # the name is in the text all the same
        render(source, {"role": "user", "content": "get_time zqtool"})
    assert refused.value.param == "tools"
    assert "hi" in render(source, USER, tools=())


def test_a_tool_that_a_template_leaves_out_is_named() -> None:
    first = "{% if tools %}{{ tools[0].function.name }}{% endif %}" + TEMPLATE
    other = {"type": "function", "function": {"name": "other", "parameters": {}}}
    with pytest.raises(BadRequest) as refused:
        render(first, USER, tools=(TOOL, other))
    assert refused.value.param == "tools.1"


def test_what_a_template_says_of_a_tool_that_it_refuses_is_the_reason() -> None:
    picky = "{% for tool in tools or [] %}{{ tool.function.parameters.required[0] }}{% endfor %}" + TEMPLATE
    assert "a" in render(picky, USER, tools=({**TOOL, "function": {"name": "a", "parameters": {"required": ["a"]}}},))
    with pytest.raises(BadRequest, match="cannot render these tools") as refused:
        render(picky, USER)
    assert refused.value.param == "tools"


def test_a_call_that_a_template_leaves_out_is_refused_with_its_message() -> None:
    with pytest.raises(BadRequest, match="leaves this message") as refused:
        render(TOLD + TEMPLATE, USER, call(), RESULT)
    assert refused.value.param == "messages.1"


def test_the_result_of_a_call_that_a_template_leaves_out_is_refused_too() -> None:
    source = FAMILIES["hermes"].template.replace("<tool_response>\n{{ m.content }}", "<tool_response>")
    with pytest.raises(BadRequest, match="leaves this message") as refused:
        render(source, USER, call(), RESULT)
    assert refused.value.param == "messages.2"


def test_the_form_of_one_conversation_says_nothing_of_another_with_more_calls() -> None:
    one = (
        TOLD + "{% for m in messages %}{{ m.role }}{{ m.content }}"
        "{% if m.tool_calls %}{{ m.tool_calls[0].function.name }}{% endif %}{% endfor %}"
    )
    template = ChatTemplate(one, {})
    twice = {**call(), "tool_calls": call()["tool_calls"] * 2}
    template.render([USER, call(), RESULT], LONG)
    with pytest.raises(BadRequest, match="leaves this message"):
        template.render([USER, twice, RESULT], LONG)


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("{{ m.reasoning_content }}", ("reasoning_content",)),
        ("{{ m['thinking'] }}{% if 'reasoning' in m %}", ("reasoning", "thinking")),
        ("{{ m.content }} reasoning, thinking", ()),
    ],
)
def test_reasoning_goes_by_the_names_that_the_template_reads(source: str, names: tuple[str, ...]) -> None:
    assert reasoning_names(source) == names


def test_reasoning_of_earlier_answers_reaches_the_template_by_its_name() -> None:
    thinks = {**call(), "reasoning_content": "hm"}
    assert "<think>\nhm\n</think>" in render(FAMILIES["hermes"].template, USER, thinks, RESULT)
    assert "analysis<|message|>hm" in render(FAMILIES["harmony"].template, USER, thinks, RESULT)


def test_arguments_that_a_template_takes_as_text_are_json() -> None:
    text = render(FAMILIES["deepseek blocks"].template, USER, call(zone="Zürich", n=[1]), RESULT)
    block = text.partition("```json\n")[2].partition("\n```")[0]
    assert json.loads(block) == {"zone": "Zürich", "n": [1]}
