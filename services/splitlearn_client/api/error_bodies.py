"""The JSON of an error, as the clients of a path expect it.

Pure.
"""

from collections.abc import Mapping
from typing import Any, Final

_ANTHROPIC: Final = "/v1/messages"
_ANTHROPIC_KINDS: Final[Mapping[int, str]] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def error_body(path: str, status: int, message: str, kind: str, code: str, param: str | None = None) -> dict[str, Any]:
    """OpenAI's shape; on Anthropic's paths theirs, with our code and param in it.

    Args:
        path: of the request; empty if it is not known.
        kind: OpenAI's word for what went wrong.
    """
    inner = {"message": message, "type": kind, "param": param, "code": code}
    if path != _ANTHROPIC and not path.startswith(f"{_ANTHROPIC}/"):
        return {"error": inner}
    general = "invalid_request_error" if status < 500 else "api_error"
    return {"type": "error", "error": {**inner, "type": _ANTHROPIC_KINDS.get(status, general)}}
