import pytest

from splitlearn_client.api.places import Places
from splitlearn_client.errors import BadRequest

PLACES = Places(
    "input",
    ["instructions", "previous_response_id", "input.0", "input.2"],
    {
        "tools.N.function.parameters": "tools.N.input_schema",
        "tools.N.function": "tools.N",
        "stop": "stop_sequences",
    },
)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("messages", "input"),
        ("messages.0", "instructions"),
        ("messages.1.content", "previous_response_id"),
        ("messages.3.tool_calls.7.function.name", "input.2"),
        ("tools", "tools"),
        ("tools.12.function.name", "tools.12.name"),
        ("tools.12.function.parameters", "tools.12.input_schema"),
        ("tools.1.function.parameters.properties.N.type", "tools.1.input_schema.properties.N.type"),
        ("tools.1.functions", "tools.1.functions"),
        ("stop", "stop_sequences"),
        ("stop.3", "stop_sequences.3"),
        ("stop_token_ids", "stop_token_ids"),
        ("model", "model"),
    ],
)
def test_a_field_has_the_name_that_the_caller_gave_it(ours: str, theirs: str) -> None:
    assert PLACES.named(ours) == theirs


def test_an_error_of_the_block_names_the_callers_field() -> None:
    with pytest.raises(BadRequest) as refused, PLACES.naming():
        raise BadRequest("no", "messages.2")
    assert refused.value.param == "input.0"


def test_an_error_without_a_field_stays_without_one() -> None:
    with pytest.raises(BadRequest) as refused, PLACES.naming():
        raise BadRequest("no")
    assert refused.value.param is None
