"""Outputs of each family, cut at every place, in the form that its templates write."""

import json
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitlearn_client.parsing.dialect import Dialect, Prefix, dialect_of
from support.taken_apart import called, however_it_is_cut, said, taken_apart, thought
from support.tool_templates import FAMILIES

DIALECTS = {name: dialect_of(family.template, {}) for name, family in FAMILIES.items()}
ASSISTANT = "<|start|>assistant"
F, G = ("f", '{"a": 1.5, "b": ["x\\"}"]}'), ("g", "{}")


@dataclass(frozen=True)
class Output:
    """An output of a family, and what is in it."""

    family: str
    text: str
    said: str = ""
    thought: str = ""
    called: tuple[tuple[str, str], ...] = ()
    ending: str = ""


def hermes(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def deepseek(name: str, arguments: str) -> str:
    return f"<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{arguments}<｜tool▁call▁end｜>"


def block(name: str, arguments: str) -> str:
    return f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{arguments}\n```<｜tool▁call▁end｜>"


def harmony(name: str, arguments: str) -> str:
    return f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{arguments}"


SPELLED = "<|start|>user<|message|>say <|channel|>analysis to=functions.f<|end|>"
OUTPUTS = [
    Output("hermes", "Hello there.", said="Hello there."),
    Output("hermes", hermes(*F), called=(F,)),
    Output("hermes", f"{hermes(*F)}\n{hermes(*G)}", called=(F, G)),
    Output("hermes", f"Let me see.\n{hermes(*F)}", said="Let me see.", called=(F,)),
    Output("hermes", f"<think>\nwhy?\n</think>\n\nSo.\n\n{hermes(*F)}", said="So.", thought="why?", called=(F,)),
    Output("hermes", "why?\n</think>\n\nSo.", said="So.", thought="why?", ending="assistant\n<think>\n"),
    Output("hermes", '<tool_call>{"arguments": {"a": 1}, "name": "g"}</tool_call>', called=(("g", '{"a": 1}'),)),
    Output("hermes", '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>', called=(("f", '{"a": 1}'),)),
    Output("hermes", '<tool_call>{"name": "g"}</tool_call>', called=(G,)),
    Output("hermes", hermes(*F).removesuffix("\n</tool_call>"), called=(F,)),
    Output(
        "hermes",
        "<tool_call>\n<function=f>\n<parameter=s>\n12\n3\n</parameter>\n<parameter=n>\n12\n</parameter>\n"
        "<parameter=o>\n[true]\n</parameter>\n<parameter=p>\nplain\n</parameter>\n</function>\n</tool_call>",
        called=(("f", '{"s": "12\\n3", "n": 12, "o": [true], "p": "plain"}'),),
    ),
    Output("hermes", "<tool_call><function=g></function></tool_call>", called=(G,)),
    # GLM's tags; a text keeps its line breaks
    Output(
        "hermes",
        "<tool_call>f\n<arg_key>s</arg_key>\n<arg_value>\n12\n</arg_value>\n<arg_key>n</arg_key>\n<arg_value>12</arg_value>\n"
        "<arg_key>o</arg_key>\n<arg_value>[true]</arg_value>\n</tool_call>",
        called=(("f", '{"s": "\\n12\\n", "n": 12, "o": [true]}'),),
    ),
    Output(
        "hermes",
        "<tool_call>f<arg_key>s</arg_key><arg_value>a < b</arg_value></tool_call><tool_call>g</tool_call>",
        called=(("f", '{"s": "a < b"}'), G),
    ),
    Output("llama3", f'{{"name": "f", "parameters": {F[1]}}}', called=(F,)),
    Output("llama3", f'{{"name": "f", "parameters": {F[1]}}}; {{"name": "g", "parameters": {{}}}}', called=(F, G)),
    Output("llama3", f'<|python_tag|>{{"type": "function", "name": "f", "parameters": {F[1]}}}', called=(F,)),
    Output("llama3", '\n {"name": "Bob", "age": 3} ', said='\n {"name": "Bob", "age": 3} '),
    Output("llama3", '<|python_tag|>search.call(query="x")', said='<|python_tag|>search.call(query="x")'),
    Output("llama3", "{ is a brace", said="{ is a brace"),
    Output("mistral", f'[TOOL_CALLS] [{{"name": "f", "arguments": {F[1]}, "id": "abcdefghi"}}]', called=(F,)),
    Output(
        "mistral",
        f'Wait. [TOOL_CALLS][{{"name": "f", "arguments": {F[1]}}}, {{"name": "g", "arguments": {{}}}}]',
        said="Wait.",
        called=(F, G),
    ),
    Output(
        "mistral named",
        f"[THINK]why?[/THINK]So.[TOOL_CALLS]f[ARGS]{F[1]}[TOOL_CALLS]g[CALL_ID]123456789[ARGS]{{}}",
        said="So.",
        thought="why?",
        called=(F, G),
    ),
    Output("mistral named", f"[TOOL_CALLS]f{F[1]}", called=(F,)),
    Output(
        "gemma",
        '<|channel>thought\nwhy?\n<channel|>So.<|tool_call>call:f{s:<|"|>a "b" {c}\n<|"|>,n:[1,-2.5e3,true],o:{k:null}}'
        "<tool_call|><|tool_call>call:g{}<tool_call|>",
        said="So.",
        thought="why?",
        called=(("f", '{"s": "a \\"b\\" {c}\\n", "n": [1, -2.5e3, true], "o": {"k": null}}'), G),
    ),
    Output("gemma", '<|tool_call>call:f{"s": "x", <|"|>n<|"|>:2}<tool_call|>', called=(("f", '{"s": "x", "n": 2}'),)),
    Output(
        "function gemma",
        "<start_function_call>call:f{s:<escape>x<escape>,n:2}<end_function_call>",
        called=(("f", '{"s": "x", "n": 2}'),),
    ),
    Output(
        "deepseek",
        f"So.<｜tool▁calls▁begin｜>{deepseek(*F)}{deepseek(*G)}<｜tool▁calls▁end｜>",
        said="So.",
        called=(F, G),
    ),
    Output("deepseek blocks", f"<｜tool▁calls▁begin｜>{block(*F)}\n{block(*G)}<｜tool▁calls▁end｜>", called=(F, G)),
    Output(
        "harmony",
        f"<|channel|>analysis<|message|>why?<|end|>{ASSISTANT}<|channel|>commentary<|message|>So.<|end|>{ASSISTANT}"
        f"{harmony(*F)}<|call|>",
        said="So.",
        thought="why?",
        called=(F,),
        ending=ASSISTANT,
    ),
    Output("harmony", harmony(*F), called=(F,), ending=ASSISTANT),
    Output(
        "harmony",
        f" to=functions.f<|channel|>commentary json<|message|>{F[1]}<|end|>{ASSISTANT}<|channel|>final<|message|>So.",
        said="So.",
        called=(F,),
        ending=ASSISTANT,
    ),
    Output(
        "harmony",
        f"why?<|end|>{ASSISTANT}<|channel|>final<|message|>So. <b>",
        said="So. <b>",
        thought="why?",
        ending=f"{ASSISTANT}<|channel|>analysis<|message|>",
    ),
    Output("harmony", " Plain text.", said=" Plain text.", ending=ASSISTANT),
    # without a generation prompt, behind a user who spells what a header has
    Output(
        "harmony",
        f"{ASSISTANT}<|channel|>analysis<|message|>why?<|end|>{ASSISTANT}{harmony(*F)}<|call|>",
        thought="why?",
        called=(F,),
        ending=SPELLED,
    ),
    Output("harmony", f"{ASSISTANT}<|channel|>final<|message|>{F[1]}<|return|>", said=F[1], ending=f"{SPELLED}\n"),
    Output("harmony", F[1], said=F[1], ending=SPELLED),
    # the assistant's message is continued, and has such words itself
    Output("harmony", F[1], said=F[1], ending=f"{ASSISTANT}<|channel|>final<|message|>to=functions.f "),
]


@pytest.mark.parametrize("holds", [False, True], ids=["stream", "whole"])
@pytest.mark.parametrize("output", OUTPUTS, ids=lambda output: f"{output.family}-{output.text[:24]}")
def test_an_output_is_taken_apart_alike_however_it_is_cut(output: Output, holds: bool) -> None:
    events = however_it_is_cut(DIALECTS[output.family], output.text, prefix=Prefix(output.ending), holds=holds)
    assert said(events) == output.said
    assert thought(events) == output.thought
    assert called(events) == list(output.called)
    assert all(isinstance(json.loads(arguments), dict) for _, arguments in called(events))


@pytest.mark.parametrize("output", OUTPUTS, ids=lambda output: f"{output.family}-{output.text[:24]}")
def test_an_output_that_ends_anywhere_has_the_beginning_of_its_arguments(output: Output) -> None:
    dialect, prefix = DIALECTS[output.family], Prefix(output.ending)
    for length in range(len(output.text)):
        for holds in (False, True):
            text, options = output.text[:length], {"prefix": prefix, "holds": holds, "is_cut_off": True}
            events = taken_apart(dialect, [text], **options)
            assert taken_apart(dialect, list(text), **options) == events
            for name, arguments in called(events):
                whole = dict(output.called)[name]
                assert whole.startswith(arguments) or arguments == "{}"


MALFORMED = [
    ("hermes", 'a <tool_call>{"name": "h", "arguments": {}}</tool_call> b'),
    ("hermes", 'a <tool_call>{"name": "f", "arguments": {"a": }}</tool_call> b'),
    ("hermes", '<tool_call>{"name": "f", "arguments": [1]}</tool_call>'),
    ("hermes", '<tool_call>{"name": "f", "arguments": "no"}</tool_call>'),
    ("hermes", '<tool_call>{"name": "f", "name": "g"}</tool_call>'),
    ("hermes", '<tool_call>{"other": 1}</tool_call>'),
    ("hermes", "<tool_call>hello</tool_call>"),
    ("hermes", "<tool_call><function=h></function></tool_call>"),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": 1'),
    ("hermes", "<tool_call><function=f><parameter=s>1</parameter><parameter=s>2</parameter></function></tool_call>"),
    ("hermes", "<tool_call>h<arg_key>s</arg_key><arg_value>1</arg_value></tool_call>"),
    ("hermes", "<tool_call>f<arg_key>s</arg_key>1</tool_call>"),
    ("hermes", "<tool_call>f<arg_key>s</arg_key><arg_value>1</arg_value><arg_key>s</arg_key><arg_value>2</arg_value>"),
    ("llama3", '{"name": "f", "parameters": {"a": 1,}}'),
    ("llama3", '{"name": "f"}'),
    ("mistral", '[TOOL_CALLS][{"name": "h", "arguments": {}}] more'),
    ("mistral named", "[TOOL_CALLS]h[ARGS]{}"),
    ("mistral named", "[TOOL_CALLS]" + "x" * 300),
    ("gemma", "<|tool_call>call:f{a:oops}<tool_call|>"),
    ("gemma", "<|tool_call>call:f{" + "a:{" * 60 + "}" * 61 + "<tool_call|>"),
    ("function gemma", "<start_function_call>call:h{}<end_function_call>"),
    ("deepseek", f"<｜tool▁calls▁begin｜>{deepseek('h', '{}')}<｜tool▁calls▁end｜>"),
    ("deepseek blocks", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n{}<｜tool▁call▁end｜>"),
]


@pytest.mark.parametrize(("family", "text"), MALFORMED)
def test_what_is_no_call_is_content_with_its_markers(family: str, text: str) -> None:
    assert said(however_it_is_cut(DIALECTS[family], text, holds=True)) == text
    # a stream may have begun the call: what follows is content
    events = however_it_is_cut(DIALECTS[family], text)
    told = said(events) + "".join(arguments for _, arguments in called(events))
    assert not called(events) or len(told) > len(text) - 60


def test_a_call_to_what_is_no_function_is_content_in_harmony_too() -> None:
    text = "<|channel|>commentary to=python<|message|>print(1)<|end|>"
    events = however_it_is_cut(DIALECTS["harmony"], text, prefix=Prefix(ASSISTANT))
    assert "to=python<|message|>print(1)" in said(events)
    assert called(events) == []


PIECES = [
    "<tool_call>", "</tool_call>", '{"name": "f", "arguments": ', '{"a": 1}', "}", "{", '"', "<think>", "</think>", " ",
    "\n", "word", "[TOOL_CALLS]", "f[ARGS]", "[", "]", ", ", "<|tool_call>", "call:f{", "a:1", "<tool_call|>",
    "<|channel|>", "analysis", "<|message|>", "<|end|>", "<|start|>", "assistant", "<｜tool▁calls▁begin｜>",
    "<｜tool▁call▁begin｜>", "f<｜tool▁sep｜>", "<｜tool▁call▁end｜>", "<function=f>", "<parameter=s>", "</parameter>",
    "</function>", "; ", "<|python_tag|>", " to=functions.f", "```json\n", "commentary", "[THINK]", "[/THINK]",
    "<|channel>thought", "<channel|>", "f", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>",
]  # fmt: skip


@given(
    family=st.sampled_from(list(FAMILIES)),
    parts=st.lists(st.sampled_from(PIECES), max_size=14),
    cuts=st.lists(st.integers(0, 200), max_size=8),
    holds=st.booleans(),
    is_cut_off=st.booleans(),
)
def test_any_text_is_taken_apart_alike_however_it_is_cut(
    family: str, parts: list[str], cuts: list[int], holds: bool, is_cut_off: bool
) -> None:
    text, dialect = "".join(parts), DIALECTS[family]
    places = [0, *sorted(cuts), len(text)]
    pieces = [text[start:end] for start, end in pairwise(places)]
    options = {"holds": holds, "is_cut_off": is_cut_off, "prefix": Prefix(ASSISTANT if dialect.is_harmony else "")}
    whole = taken_apart(dialect, [text], **options)
    assert taken_apart(dialect, pieces, **options) == whole
    # words are never lost
    told = said(whole) + thought(whole) + "".join(arguments for _, arguments in called(whole))
    assert told.count("word") == text.count("word")


@given(st.text(alphabet="ab <{[\n|", max_size=40))
def test_a_text_without_markers_passes_untouched(text: str) -> None:
    for dialect in DIALECTS.values():
        assert said(taken_apart(dialect, [text])) == text


def test_without_tools_calls_are_content_and_reasoning_is_not() -> None:
    text = f"<think>why?</think>{hermes(*F)}"
    events = taken_apart(DIALECTS["hermes"], [text], tools={})
    assert (thought(events), said(events), called(events)) == ("why?", hermes(*F), [])


def test_a_model_without_a_form_is_not_taken_apart() -> None:
    assert Dialect().reading({"f": {}}, Prefix()) is None


@pytest.mark.parametrize("family", ["hermes", "mistral named", "gemma"])
def test_markers_within_a_form_that_was_asked_for_are_content(family: str) -> None:
    dialect = DIALECTS[family]
    assert dialect.thoughts is not None
    assert dialect.form is not None
    opening, closing = dialect.thoughts.opening, dialect.thoughts.closing
    text = json.dumps({"a": f"{opening} and {closing}, {dialect.form.openers[0]} too"}, ensure_ascii=False)
    for reasoning in ("", f"{opening}why?{closing}\n"):
        events = however_it_is_cut(dialect, reasoning + text, is_formed=True)
        assert (said(events), thought(events), called(events)) == (text, reasoning and "why?", [])


def test_calls_in_place_of_a_form_that_was_asked_for_are_calls() -> None:
    calls = f"{hermes(*F)}\n{hermes(*G)}"
    for reasoning in ("", "<think>why?</think>\n"):
        events = however_it_is_cut(DIALECTS["hermes"], reasoning + calls, is_formed=True)
        assert (said(events), thought(events), called(events)) == ("", reasoning and "why?", [F, G])
    named = "[TOOL_CALLS]f[ARGS]{}[TOOL_CALLS]g[ARGS]{}"
    assert called(however_it_is_cut(DIALECTS["mistral named"], named, is_formed=True)) == [("f", "{}"), G]


def test_reasoning_that_the_prompt_began_comes_before_the_form() -> None:
    prefix = Prefix("assistant\n<think>\n")
    events = however_it_is_cut(DIALECTS["hermes"], 'why?</think>\n\n{"a": "<think>"}', prefix=prefix, is_formed=True)
    assert (said(events), thought(events)) == ('{"a": "<think>"}', "why?")
