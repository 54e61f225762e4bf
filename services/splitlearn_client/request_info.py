"""What is known of an HTTP request before its answer: names, tenant and times. Kept in the request's ASGI scope."""

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

from starlette.types import Scope

from splitlearn_comm import RequestContext

REQUEST_ID: Final = "X-Request-Id"
_KEY: Final = "splitlearn_client.request_info"


def new_request_id() -> str:
    """An id for a request that came without one."""
    return uuid.uuid4().hex


@dataclass
class RequestInfo:
    """Of one HTTP request. Times are on the performance counter."""

    context: RequestContext = field(default_factory=lambda: RequestContext(new_request_id()))
    began: float = field(default_factory=time.perf_counter)
    """When its headers were complete."""
    tenant: str = ""
    """Whose key it came with; empty without tenants."""
    tokenized: tuple[float, float] | None = None
    """When the prompts began to be tokenized, and when they were."""
    release_body: Callable[[], None] = lambda: None
    """To be called once nothing keeps the request's body: its bytes stop counting."""
    told_in_stream: Callable[[dict[str, Any]], dict[str, Any]] = lambda body: body
    """What a stream's last event says of an error, of the body that it has without a stream."""

    @contextmanager
    def tokenizing(self) -> Iterator[None]:
        """Times the block."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.tokenized = began, time.perf_counter()


def read_info(scope: Scope) -> RequestInfo:
    """What the headers say; kept in the scope from the first call on.

    A request without a usable X-Request-Id gets a new one.
    """
    fields = ((name.decode("latin-1"), value) for name, value in scope["headers"])
    context = RequestContext.read(fields)
    if not context.request_id:
        context = replace(context, request_id=new_request_id())
    info: RequestInfo = scope.setdefault(_KEY, RequestInfo(context))
    return info


def info_of(scope: Scope) -> RequestInfo:
    """What `read_info` put there."""
    info: RequestInfo = scope[_KEY]
    return info
