import pytest

from splitlearn_client.api.error_bodies import error_body


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messagesx", "/", ""])
def test_other_paths_have_the_shape_of_openai(path: str) -> None:
    assert error_body(path, 404, "text", "invalid_request_error", "model_not_found", "model") == {
        "error": {"message": "text", "type": "invalid_request_error", "param": "model", "code": "model_not_found"}
    }


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (405, "invalid_request_error"),
        (408, "invalid_request_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
    ],
)
def test_the_paths_of_anthropic_have_its_envelope_and_kinds(path: str, status: int, kind: str) -> None:
    assert error_body(path, status, "text", "server_error", "code") == {
        "type": "error",
        "error": {"message": "text", "type": kind, "param": None, "code": "code"},
    }
