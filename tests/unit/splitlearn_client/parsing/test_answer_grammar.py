"""Which answers the grammars of each family let through, with markers that are special tokens and that are text."""

import json
import re
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper, grammar_from

from splitlearn_client.parsing.answer_grammar import ANY_OBJECT, Offered, OfferedTool, answer_grammar, is_marked
from splitlearn_client.parsing.dialect import Dialect, Prefix, dialect_of
from splitlearn_client.structured.answer_source import assembled, joined
from splitlearn_client.structured.constraint import Constraint
from support.tool_templates import FAMILIES

SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}},
    "required": ["a"],
    "additionalProperties": False,
}
TOOLS = [OfferedTool("f", SCHEMA, ("0",)), OfferedTool("g", ANY_OBJECT, ("1",))]
ASSISTANT = "<|start|>assistant"
F = '{"a": 1}'


class _Bytes:
    """A vocabulary of all bytes, an end, and these special tokens."""

    eos_token_id = 256
    bos_token_id = None

    def __init__(self, names: list[str]) -> None:
        self.tokens = [*(bytes([value]) for value in range(256)), b"<end>", *(name.encode() for name in names)]
        self.special_token_ids = list(range(256, len(self.tokens)))

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


def follows(
    family: str,
    text: str,
    *,
    special: bool,
    ending: str = "",
    prefill: str = "",
    tools: bool = True,
    constraint: Constraint | None = None,
    **options: Any,
) -> bool:
    """Whether a text is a whole answer."""
    names = list(FAMILIES[family].tokens) if special else []
    # of some families no marker is a special token in the templates of the tests
    names += ["<tool_call>", "</tool_call>", "<think>", "</think>"] if special and family == "hermes" else []
    hidden = {name: 257 + number for number, name in enumerate(names)}
    dialect: Dialect = dialect_of(FAMILIES[family].template, hidden)
    prefix = Prefix(ending or (ASSISTANT if family == "harmony" else ""), prefill)
    assert dialect.form is not None
    offered = Offered(dialect.form, TOOLS, **{"must_call": True, "is_one": False, **options}) if tools else None
    tokenizer = LLTokenizer(TokenizerWrapper(_Bytes(names)), slices=[])
    tried, used, inner, *_ = assembled(answer_grammar(dialect, prefix, offered, constraint).text())
    if inner is not None:
        tried, used = (joined(rules, grammar_from(*inner[:2])) for rules in (tried, used))
    trial = LLMatcher(LLTokenizer(TokenizerWrapper(_Bytes([])), slices=[]), tried, log_level=0)
    assert not trial.is_error(), trial.get_error()
    matcher = LLMatcher(tokenizer, used, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    pattern = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    pieces = re.split(f"({pattern})", text) if names else [text]
    ids = [each for piece in pieces for each in ([hidden[piece]] if piece in hidden else piece.encode())]
    return all(matcher.consume_token(each) for each in ids) and matcher.is_accepting()


ONE = {
    "hermes": f'<tool_call>\n{{"name": "f", "arguments": {F}}}\n</tool_call>',
    "llama3": f'{{"name": "f", "parameters": {F}}}',
    "mistral": f'[TOOL_CALLS][{{"name": "f", "arguments": {F}}}]',
    "mistral named": f"[TOOL_CALLS]f[ARGS]{F}",
    "gemma": f"<|tool_call>call:f{F}<tool_call|>",
    "function gemma": f"<start_function_call>call:f{F}<end_function_call>",
    "harmony": f"<|channel|>commentary to=functions.f <|constrain|>json<|message|>{F}",
    "deepseek": f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{F}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    "deepseek blocks": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n"
    f"{F}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
}
THOUGHT = {
    "hermes": "<think>why?</think>\n",
    "mistral named": "[THINK]why?[/THINK]",
    "gemma": "<|channel>thought\nwhy?<channel|>",
    "harmony": "<|channel|>analysis<|message|>why?<|end|><|start|>assistant",
}
pytestmark = pytest.mark.parametrize("special", [False, True], ids=["as text", "as tokens"])


@pytest.mark.parametrize("family", ONE)
def test_an_answer_that_must_call_is_a_call_and_nothing_else(family: str, special: bool) -> None:
    assert follows(family, ONE[family], special=special)
    assert not follows(family, ONE[family].replace(F, '{"a": "x"}'), special=special)
    assert not follows(family, ONE[family].replace(F, "{}"), special=special)
    assert not follows(family, "Hello.", special=special)
    assert not follows(family, f"Hello. {ONE[family]}", special=special)
    other = ONE[family].replace("call:f", "call:h").replace('"f"', '"h"').replace("f[ARGS]", "h[ARGS]")
    other = other.replace("functions.f", "functions.h").replace("f<｜tool▁sep", "h<｜tool▁sep").replace("f\n`", "h\n`")
    assert not follows(family, other, special=special)


@pytest.mark.parametrize("family", ONE)
def test_an_answer_that_may_call_is_text_or_calls_whose_arguments_follow_the_schema(family: str, special: bool) -> None:
    free = {"must_call": False, "special": special}
    hello = "<|channel|>final<|message|>Hello." if family == "harmony" else "Hello."
    assert follows(family, hello, **free)
    assert follows(family, ONE[family], **free)
    assert not follows(family, ONE[family].replace(F, '{"a": "x"}'), **free)
    before = {"harmony": "<|channel|>commentary<|message|>So.<|end|><|start|>assistant", "llama3": ""}.get(
        family, "So."
    )
    assert follows(family, before + ONE[family], **free)


@pytest.mark.parametrize("family", [name for name in ONE if name != "harmony"])
def test_several_calls_follow_each_other_unless_there_may_be_one(family: str, special: bool) -> None:
    two = {
        "hermes": f"{ONE['hermes']}\n{ONE['hermes']}",
        "llama3": f"{ONE['llama3']}; {ONE['llama3']}",
        "mistral": ONE["mistral"][:-1] + ', {"name": "g", "arguments": {"x": 1}}]',
    }
    several = two.get(family, ONE[family] * 2)
    if family.startswith("deepseek"):
        between = "\n" if family == "deepseek blocks" else ""
        inner = ONE[family].removeprefix("<｜tool▁calls▁begin｜>").removesuffix("<｜tool▁calls▁end｜>")
        several = f"<｜tool▁calls▁begin｜>{inner}{between}{inner}<｜tool▁calls▁end｜>"
    assert follows(family, several, special=special)
    assert follows(family, several, special=special, must_call=False)
    assert not follows(family, several, special=special, is_one=True)


@pytest.mark.parametrize("family", THOUGHT)
def test_reasoning_may_come_before_a_call(family: str, special: bool) -> None:
    assert follows(family, THOUGHT[family] + ONE[family], special=special)


def test_reasoning_that_the_prompt_has_begun_is_ended_first_and_what_it_rules_out_does_not_come(special: bool) -> None:
    opened, closed = "assistant\n<think>\n", "assistant\n<think>\n\n</think>\n\n"
    assert follows("hermes", f"why?</think>\n{ONE['hermes']}", special=special, ending=opened)
    assert not follows("hermes", ONE["hermes"], special=special, ending=opened)
    assert not follows("hermes", THOUGHT["hermes"] + ONE["hermes"], special=special, ending=closed)
    analysis = f"{ASSISTANT}<|channel|>analysis<|message|>"
    assert follows("harmony", f"why?<|end|>{ASSISTANT}{ONE['harmony']}", special=special, ending=analysis)


# by kind: a constraint, what follows it, and what does not
ASKED = {
    "json_schema": (json.dumps(SCHEMA), F, '{"a": "x"}'),
    "regex": ("[a-c]+/", "abc/", "abd/"),
    "choice": ('["yes", "no"]', "yes", "maybe"),
    "grammar": ('start: "a" B\nB: /[0-9]+/', "a12", "b12"),
}
FINAL = "<|channel|>final<|message|>"


def asked(kind: str) -> Constraint:
    return Constraint(kind, ASKED[kind][0], "field")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ASKED)
@pytest.mark.parametrize("family", ["hermes", "mistral named", "gemma", "harmony"])
def test_what_an_answer_has_to_follow_comes_behind_its_reasoning(family: str, kind: str, special: bool) -> None:
    _, right, wrong = ASKED[kind]
    header = FINAL if family == "harmony" else ""
    rest = {"special": special, "tools": False, "constraint": asked(kind)}
    assert follows(family, header + right, **rest)
    assert follows(family, THOUGHT[family] + header + right, **rest)
    assert not follows(family, header + wrong, **rest)
    assert not follows(family, THOUGHT[family] + header + wrong, **rest)
    assert not follows(family, THOUGHT[family], **rest)
    assert not follows(family, ONE[family], **rest)


def test_reasoning_that_the_prompt_has_begun_is_not_what_has_to_follow(special: bool) -> None:
    rest = {"special": special, "tools": False, "constraint": asked("json_schema")}
    opened, closed = "assistant\n<think>\n", "assistant\n<think>\n\n</think>\n\n"
    assert follows("hermes", f"why?</think>\n\n{F}", ending=opened, **rest)
    assert not follows("hermes", F, ending=opened, **rest)
    assert follows("hermes", F, ending=closed, **rest)
    assert not follows("hermes", THOUGHT["hermes"] + F, ending=closed, **rest)
    analysis = f"{ASSISTANT}<|channel|>analysis<|message|>"
    assert follows("harmony", f"why?<|end|>{ASSISTANT}{FINAL}{F}", ending=analysis, **rest)
    assert not follows("harmony", F, ending=analysis, **rest)
    assert follows("harmony", F, ending=f"{ASSISTANT}{FINAL}", **rest)


@pytest.mark.parametrize("ending", [f"{ASSISTANT}{FINAL}So: ", "the end of a long text: "])
def test_what_goes_on_with_a_message_of_harmony_has_no_header_and_calls_come_behind_its_end(
    ending: str, special: bool
) -> None:
    rest = {"special": special, "ending": ending, "prefill": "a long text: "}
    call = f"<|end|>{ASSISTANT}{ONE['harmony']}"
    json_asked = {"constraint": asked("json_schema")}
    assert follows("harmony", F, tools=False, **json_asked, **rest)
    for options, said, others in (
        ({"must_call": False, **json_asked}, F, f"Hello.{call}"),
        ({"must_call": False}, "Hello.", None),
        ({}, call, F),
    ):
        assert follows("harmony", said, **options, **rest)
        assert follows("harmony", call, **options, **rest)
        assert not follows("harmony", FINAL + F, **rest)
        assert others is None or not follows("harmony", others, **options, **rest)
    assert follows("harmony", f"Hello.{call}", must_call=False, **rest)


@pytest.mark.parametrize("end", ["<|end|>", "<|return|>", "<|call|>", "<|end|>\n"])
def test_without_a_generation_prompt_an_answer_of_harmony_begins_a_message_of_its_own(end: str, special: bool) -> None:
    rest = {"special": special, "ending": f"<|start|>user<|message|>hi{end}"}
    thought = "<|channel|>analysis<|message|>why?<|end|>" + ASSISTANT
    json_asked = {"constraint": asked("json_schema")}
    for options, bodies in (
        ({"tools": False, **json_asked}, [FINAL + F]),
        ({"must_call": False, **json_asked}, [FINAL + F, ONE["harmony"]]),
        ({"must_call": False}, [FINAL + "Hello.", ONE["harmony"]]),
        ({}, [ONE["harmony"]]),
    ):
        for body in bodies:
            assert follows("harmony", ASSISTANT + body, **options, **rest)
            assert follows("harmony", ASSISTANT + thought + body, **options, **rest)
            assert not follows("harmony", body, **options, **rest)
            assert not follows("harmony", body.partition("<|message|>")[2], **options, **rest)


# without a marker nothing tells calls from other objects
@pytest.mark.parametrize("family", [name for name in ONE if name != "llama3"])
def test_an_answer_calls_a_tool_or_follows_what_is_asked_for(family: str, special: bool) -> None:
    _, right, wrong = ASKED["json_schema"]
    header = FINAL if family == "harmony" else ""
    rest = {"special": special, "must_call": False, "constraint": asked("json_schema")}
    before = THOUGHT.get(family, "")
    for beginning in ("", before):
        assert follows(family, beginning + header + right, **rest)
        assert follows(family, beginning + ONE[family], **rest)
    assert not follows(family, header + wrong, **rest)
    assert not follows(family, ONE[family].replace(F, '{"a": "x"}'), **rest)
    assert not follows(family, f"{header}Hello.", **rest)


def test_an_answer_that_must_call_does_not_follow_anything_else(special: bool) -> None:
    rest = {"special": special, "constraint": asked("json_schema")}
    assert follows("hermes", ONE["hermes"], **rest)
    assert not follows("hermes", F, **rest)


@pytest.mark.parametrize("family", ONE)
def test_only_the_calls_of_llama_have_no_marker(family: str, special: bool) -> None:
    form = dialect_of(FAMILIES[family].template, {"<tool_call>": 1} if special else {}).form
    assert form is not None
    assert is_marked(form) == (family != "llama3")


def test_an_answer_that_has_begun_does_not_begin_to_reason(special: bool) -> None:
    rest = {"special": special, "tools": False, "constraint": asked("json_schema"), "prefill": "Here: "}
    assert follows("hermes", F, **rest)
    assert not follows("hermes", THOUGHT["hermes"] + F, **rest)


def test_what_is_asked_for_is_not_compiled_where_a_tool_must_be_called(special: bool) -> None:
    dialect = dialect_of(FAMILIES["hermes"].template, {"<tool_call>": 1} if special else {})
    assert dialect.form is not None
    for must_call in (False, True):
        offered = Offered(dialect.form, TOOLS, must_call=must_call, is_one=False)
        source = answer_grammar(dialect, Prefix(), offered, asked("regex"))
        assert (source.constraint is None) == must_call
