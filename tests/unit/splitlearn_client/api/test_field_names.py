import pytest

from splitlearn_client.api.field_names import FIELD_NAMES

CHATS = ("messages", "max_completion_tokens", "json_schema", "tokens")
RESPONSES = ("max_output_tokens", "call_id", "truncation", "schema")
MESSAGES = ("max_tokens", "stop_sequences", "input_schema", "tool_use_id", "thinking", "is_error")


@pytest.mark.parametrize("name", [*CHATS, *RESPONSES, *MESSAGES])
def test_fields_of_every_request_and_of_every_object_in_them_are_known(name: str) -> None:
    assert name in FIELD_NAMES


def test_names_that_callers_make_up_are_not() -> None:
    assert not {"schema_", "zzz", ""} & FIELD_NAMES
