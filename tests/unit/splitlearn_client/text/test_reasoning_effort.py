import pytest

from splitlearn_client.text.reasoning_effort import Effort, effort_variables

LEVEL = (
    "{%- if reasoning_effort is not defined %}{%- set reasoning_effort = 'medium' %}{%- endif %}{{ reasoning_effort }}"
)
SWITCH = "{{ messages }}{%- if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}"
DEEPSEEK = (
    "{% if not thinking is defined %}{% set thinking = false %}{% endif %}{{ '<think>' if thinking else '</think>' }}"
)


@pytest.mark.parametrize(
    ("source", "effort", "variables"),
    [
        (LEVEL, "low", {"reasoning_effort": "low"}),
        (SWITCH, "none", {"enable_thinking": False}),
        (SWITCH, "minimal", {"enable_thinking": True}),
        (DEEPSEEK, "high", {"thinking": True}),
        (LEVEL + SWITCH, "none", {"reasoning_effort": "none", "enable_thinking": False}),
    ],
)
def test_an_effort_becomes_the_variables_that_the_template_reads(
    source: str, effort: Effort, variables: dict[str, object]
) -> None:
    assert effort_variables(source, effort) == variables


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages }}",
        "thinking reasoning_effort enable_thinking",
        "{{ message.thinking }}{{ message['reasoning_effort'] }}",
        "{{ '<thinking>' + \"thinking\" }}",
        "{{ rethinking }}{{ thinking_budget }}",
    ],
)
def test_a_template_that_only_names_it_has_no_variable_for_it(source: str) -> None:
    assert effort_variables(source, "high") == {}
