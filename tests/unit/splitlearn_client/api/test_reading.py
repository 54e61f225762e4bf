"""What a request with tools needs to know of the model."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from structlog.contextvars import bound_contextvars, get_contextvars

from splitlearn_client.api.reading import constraint_of, fed, reading_of
from splitlearn_client.api.schema import ChatFields
from splitlearn_client.errors import BadRequest
from splitlearn_client.parsing.dialect import Dialect, Prefix, Reading, dialect_of
from splitlearn_client.response_process import response_process
from support.taken_apart import called

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
BY_SCHEMA = dialect_of("", {}, schema=response_process("schema", '{"type": "object", "properties": {}}'))


def fields(**others: Any) -> ChatFields:
    asked = {"messages": [{"role": "user", "content": "hi"}], "tools": [TOOL], **others}
    return ChatFields.model_validate({"model": "m", **asked})


def test_tools_are_refused_where_nobody_knows_how_the_model_calls_them() -> None:
    with pytest.raises(BadRequest, match="--tool-call-parser"):
        reading_of(fields(), Dialect(), Prefix())
    assert reading_of(fields(tool_choice="none"), Dialect(), Prefix()) is None


def test_what_comes_with_the_tokenizer_is_enough_where_the_model_chooses() -> None:
    assert reading_of(fields(), BY_SCHEMA, Prefix()) is not None
    assert constraint_of(fields(), BY_SCHEMA, Prefix()) is None


JSON = {"response_format": {"type": "json_object"}}


@pytest.mark.parametrize("choice", [{"tool_choice": "required"}, {"parallel_tool_calls": False}, JSON])
def test_a_choice_that_needs_a_grammar_needs_a_known_form(choice: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match="no grammar can make this model call tools"):
        constraint_of(fields(**choice), BY_SCHEMA, Prefix())
    assert constraint_of(fields(**choice), dialect_of("<tool_call>", {}), Prefix()) is not None


def test_a_constraint_stays_as_it_is_where_nothing_comes_before_the_answer() -> None:
    plain = constraint_of(fields(tools=[], **JSON), dialect_of("<tool_call>", {}), Prefix())
    assert plain == fields(tools=[], **JSON).constraint()
    for template in ("<think>", "<|channel|>"):
        found = constraint_of(fields(tools=[], **JSON), dialect_of(template, {}), Prefix())
        assert found is not None
        assert (found.kind, found.param) == ("answer", "response_format")


def test_schemas_of_tools_are_bounded_together_and_what_is_asked_for_by_itself() -> None:
    long = {"type": "object", "description": "x" * 100_000}
    asked = {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": long}}}
    tool = {"type": "function", "function": {"name": "f", "strict": True, "parameters": long}}
    found = constraint_of(fields(tools=[tool], **asked), dialect_of("<tool_call>", {}), Prefix())
    assert found is not None
    assert found.param == "response_format.json_schema.schema"


def test_calls_without_a_marker_and_answers_in_a_form_are_not_told_apart() -> None:
    llama = dialect_of("<|start_header_id|>", {})
    with pytest.raises(BadRequest, match="nothing tells from an answer in this form") as refused:
        constraint_of(fields(**JSON), llama, Prefix())
    assert refused.value.param == "response_format"
    for choice in ("required", "none"):
        assert constraint_of(fields(tool_choice=choice, **JSON), llama, Prefix()) is not None


def test_a_call_that_must_come_is_read_as_one_though_a_form_was_asked_for() -> None:
    # without a marker, so not where an answer is in the form alone
    reading = reading_of(fields(tool_choice="required", **JSON), dialect_of("<|start_header_id|>", {}), Prefix())
    assert reading is not None
    parser = reading.make_parser(True)
    events = [*parser.feed('{"name": "f", "parameters": {}}'), *parser.finish(is_cut_off=False)]
    assert called(events) == [("f", "{}")]


def _no_parser(holds: bool) -> Any:
    raise NotImplementedError


@pytest.mark.parametrize("has_threads", [False, True])
async def test_what_a_parser_logs_has_the_id_of_its_request(has_threads: bool) -> None:
    with ThreadPoolExecutor(1) as threads, bound_contextvars(request_id="a"):
        reading = Reading(_no_parser, threads=threads if has_threads else None)
        assert await fed(reading, get_contextvars) == {"request_id": "a"}
