"""Bearer keys (RFC 6750) and quotas: requests without a valid key or over quota are refused before their body is read.

Nothing is kept of callers without a valid key.
"""

import time
from collections.abc import Callable
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from splitlearn_client.api.page import PAGE_PATH
from splitlearn_client.errors import Forbidden, InvalidAPIKey, QuotaExceeded, RequestError
from splitlearn_client.quotas import CALLER, Account
from splitlearn_client.request_info import read_info
from splitlearn_client.serving.refusing import Incoming, refuse
from splitlearn_client.serving.tenant_directory import TenantDirectory
from splitlearn_comm.tokens import HEADER, bearer

# probes have no key, and the chat page must load before its reader can enter one
_OPEN: Final = frozenset({"/", "/health", "/ready"})
_METRICS: Final = "/metrics"
_HEADER: Final = HEADER.encode()
# of Anthropic's clients
_PLAIN_HEADER: Final = b"x-api-key"


class Authorization:
    """ASGI middleware: calls the application for those with a valid key, within their tenant's quota.

    Args:
        protect_metrics: whether /metrics needs a key that may read it; else it is open.
        count: called with the tenant's name for each POST request that is let in.
    """

    def __init__(
        self, app: ASGIApp, tenants: TenantDirectory, protect_metrics: bool, count: Callable[[str], None]
    ) -> None:
        self._app = app
        self._tenants = tenants
        self._open = _OPEN if protect_metrics else _OPEN | {_METRICS}
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in self._open or scope["path"].startswith(PAGE_PATH):
            await self._app(scope, receive, send)
            return
        try:
            account = scope[CALLER] = self._authenticated(scope)
            read_info(scope).tenant = account.name
            if scope["path"] == _METRICS and not account.tenant.may_read_metrics:
                raise Forbidden("this API key does not open /metrics; --protect-metrics says which do")
            if scope["method"] == "POST":
                _begin(account)
        except RequestError as error:
            refusal = error
        else:
            await self._run(account, scope, receive, send)
            return
        await refuse(scope, Incoming(receive), send, refusal)

    async def _run(self, account: Account, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        try:
            self._count(account.name)
            await self._app(scope, receive, send)
        finally:
            account.end()

    def _authenticated(self, scope: Scope) -> Account:
        """The account of whose request it is. Raises InvalidAPIKey."""
        given, plain = (_values(scope, name) for name in (_HEADER, _PLAIN_HEADER))
        account = self._tenants.find(bearer(given) if given else plain[0] if len(plain) == 1 else None)
        if account is not None:
            return account
        if not given and not plain:
            text = "this service asks for an API key; send it in the header Authorization: Bearer KEY, or in x-api-key"
            raise InvalidAPIKey(text, "Bearer")
        raise InvalidAPIKey("this API key is not valid here", 'Bearer error="invalid_token"')


def _values(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for each, value in scope["headers"] if each == name]


def _begin(account: Account) -> None:
    """Raises QuotaExceeded."""
    refusal = account.begin(time.monotonic())
    if refusal is not None:
        whose = f"the quota of {account.name}" if account.name else "the quota"
        raise QuotaExceeded(f"{whose} is used up: {refusal.reason}", retry_after=refusal.retry_after)
