from collections.abc import Callable
from typing import Any

Run = Callable[..., Any]


def test_the_models_of_any_openai_endpoint_are_listed(splitlearn: Run, chat_service: Any) -> None:
    ran = splitlearn("models", "--url", f"{chat_service.url}/v1", "--api-key", "key")
    assert (ran.code, ran.out, ran.err) == (0, "model  context\ntiny   -\n", "")
    assert chat_service.authorization == {"Bearer key"}


def test_a_service_that_is_not_there_is_said_to_be(splitlearn: Run) -> None:
    ran = splitlearn("models", "--url", "http://127.0.0.1:1")
    assert ran.code == 1
    assert "no client service answers at http://127.0.0.1:1" in ran.err
