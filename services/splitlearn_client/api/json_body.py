"""Common behaviour of all endpoints: bodies are strict JSON in UTF-8, and GET routes answer HEAD."""

import json
from collections.abc import Callable, Coroutine
from email.message import Message
from json import JSONDecodeError
from typing import Any, Final

from fastapi import Request, Response
from fastapi.routing import APIRoute

# enough for any JSON schema, and less than Python's recursion limit
_DEEPEST: Final = 100
# the position of an error without one
NOWHERE: Final = -1


class ApiRoute(APIRoute):
    """A route whose bodies are read by `strict_json`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.methods and "GET" in self.methods:
            # starlette's routes do this, FastAPI's do not
            self.methods.add("HEAD")

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return handle_strictly


class _StrictRequest(Request):
    async def json(self) -> Any:
        return strict_json(await self.body(), self.headers.get("content-type", ""))


def strict_json(body: bytes, content_type: str = "") -> Any:
    """Parses a body; a byte order mark is skipped.

    Raises:
        JSONDecodeError: the body is not JSON by RFC 8259, not UTF-8 or nested too deep, or an object has a name twice.
            FastAPI turns it into a validation error.
    """
    _refuse_other_charsets(content_type)
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise JSONDecodeError("not UTF-8", "", error.start) from error
    try:
        value = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_object)
    except JSONDecodeError:
        raise
    except RecursionError as error:
        raise _too_deep() from error
    except ValueError as error:
        # Python limits the digits of an integer
        raise JSONDecodeError("a number with too many digits", "", NOWHERE) from error
    if text.count("[") + text.count("{") > _DEEPEST:
        _refuse_depth(value)
    return value


def strict_object(text: str) -> dict[str, Any] | None:
    """The object that a text is in JSON; None if it is none that `strict_json` takes and a reply can repeat."""
    try:
        value = strict_json(text.encode())
        # a number may be infinite when it is read
        json.dumps(value, allow_nan=False)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _refuse_other_charsets(content_type: str) -> None:
    message = Message()
    message["content-type"] = content_type
    charset = message.get_content_charset("utf-8")
    if charset not in ("", "utf-8", "utf8", "us-ascii", "ascii"):
        raise JSONDecodeError("the header Content-Type names a charset other than UTF-8", "", NOWHERE)


def _refuse_constant(name: str) -> Any:
    raise JSONDecodeError(f"{name} is no JSON number", "", NOWHERE)


def _object(members: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(members)
    if len(value) < len(members):
        seen: set[str] = set()
        twice = next(name for name, _ in members if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise JSONDecodeError(f"the name {ascii(twice)[:80]} occurs twice in one object", "", NOWHERE)
    return value


def _refuse_depth(value: Any) -> None:
    """Raises JSONDecodeError for too deep nesting. Goes level by level, because recursion has a limit too."""
    level = [value]
    for _ in range(_DEEPEST):
        members = (outer.values() if isinstance(outer, dict) else outer for outer in level if _holds_more(outer))
        level = [inner for each in members for inner in each if _holds_more(inner)]
        if not level:
            return
    raise _too_deep()


def _holds_more(value: Any) -> bool:
    return isinstance(value, dict | list)


def _too_deep() -> JSONDecodeError:
    return JSONDecodeError(f"more than {_DEEPEST} levels deep", "", NOWHERE)
