from typing import Any

import pytest

from splitlearn_client.api.places import Places
from splitlearn_client.api.single_answer import chat_fields
from splitlearn_client.errors import BadRequest

USER = {"role": "user", "content": "hi"}
PLACES = Places("input", ["instructions", "input.4"], {"tools.N.function": "tools.N", "stop": "stop_sequences"})


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "input"),
        ({"messages": [USER, {"role": "user"}]}, "input.4"),
        ({"messages": [USER], "tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.name"),
        ({"messages": [USER], "stop": ["a", 5]}, "stop_sequences.1"),
        ({"messages": [USER], "top_p": 2}, "top_p"),
    ],
)
def test_what_a_chat_refuses_has_the_name_that_the_caller_gave_it(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as refused:
        chat_fields({"model": "tiny", **fields}, PLACES)
    assert refused.value.param == param
    assert str(refused.value).startswith(f"{param}: ")


def test_what_a_chat_takes_is_one() -> None:
    fields = chat_fields({"model": "tiny", "messages": [USER], "temperature": None, "stop": []}, PLACES)
    assert [message.plain() for message in fields.messages] == [USER]
