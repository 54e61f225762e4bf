"""How much of its quota each tenant has used. No clock: the caller gives the time, in seconds that never go back.

State is kept for tenants alone, never for those without a valid key.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from splitlearn_client.tenants import Quota, Tenant

CALLER: Final = "splitlearn_client.caller"
"""Key in an ASGI scope: the `Account` of whose request it is."""
_MINUTE: Final = 60.0
# when one of several running requests ends is not known
_LOOK_AGAIN_SECONDS: Final = 1.0


@dataclass(frozen=True)
class OverQuota:
    """Why a request is refused, and after how many seconds the same request would not be."""

    reason: str
    retry_after: float


@dataclass
class _Bucket:
    """A token bucket: holds at most one minute's limit, and is refilled evenly. It may be in debt."""

    limit: int
    level: float
    filled_at: float

    def fill(self, limit: int, now: float) -> None:
        """Adds what has come since the last call. A limit that changed counts from now on."""
        self.level = min(self.level + (now - self.filled_at) * self.limit / _MINUTE, limit)
        self.limit, self.filled_at = limit, now

    def seconds_until(self, level: float) -> float:
        return max(0.0, (level - self.level) * _MINUTE / self.limit)


@dataclass
class Account:
    """What one tenant uses now. Without a limit nothing is counted."""

    tenant: Tenant
    n_running: int = 0
    _requests: _Bucket | None = None
    _tokens: _Bucket | None = None

    @property
    def name(self) -> str:
        return self.tenant.name

    @property
    def _quota(self) -> Quota:
        return self.tenant.quota

    def begin(self, now: float) -> OverQuota | None:
        """Begins a request, unless the quota is used up; `end` must follow if it returns None."""
        self._fill(now)
        refusal = self._refusal()
        if refusal is None:
            self.n_running += 1
            if self._requests is not None:
                self._requests.level -= 1.0
        return refusal

    def end(self) -> None:
        """Ends a request that has begun."""
        self.n_running -= 1

    def spend(self, n_tokens: int, now: float) -> None:
        """Counts tokens. A running request may spend more than is left; later ones wait until that has come in."""
        self._fill(now)
        if self._tokens is not None:
            self._tokens.level -= n_tokens

    def _refusal(self) -> OverQuota | None:
        quota = self._quota
        if quota.max_parallel_requests is not None and self.n_running >= quota.max_parallel_requests:
            return OverQuota(f"at most {quota.max_parallel_requests} requests at a time", _LOOK_AGAIN_SECONDS)
        if self._requests is not None and self._requests.level < 1.0:
            return OverQuota(f"at most {quota.rpm_limit} requests per minute", self._requests.seconds_until(1.0))
        # a part of a token would not bring the request any further
        if self._tokens is not None and self._tokens.level < 1.0:
            return OverQuota(f"at most {quota.tpm_limit} tokens per minute", self._tokens.seconds_until(1.0))
        return None

    def _fill(self, now: float) -> None:
        self._requests = _filled(self._requests, self._quota.rpm_limit, now)
        self._tokens = _filled(self._tokens, self._quota.tpm_limit, now)


@dataclass
class Accounts:
    """The accounts of all tenants. A tenant keeps its account when its keys or its quota change."""

    _by_name: dict[str, Account] = field(default_factory=dict)

    def replace(self, tenants: Iterable[Tenant]) -> None:
        """Sets who the tenants are. Requests of those who are gone end as they would have."""
        before, self._by_name = self._by_name, {}
        for tenant in tenants:
            account = self._by_name[tenant.name] = before.get(tenant.name, Account(tenant))
            account.tenant = tenant

    def of(self, tenant: Tenant) -> Account:
        """The account of a known tenant."""
        return self._by_name[tenant.name]


def account_of(scope: Mapping[str, Any]) -> Account:
    """The account of an ASGI scope; one without a name and limits if there is none."""
    account = scope.get(CALLER)
    return account if isinstance(account, Account) else Account(Tenant(""))


def tenant_of(scope: Mapping[str, Any]) -> str:
    """The name of the tenant of an ASGI scope; empty if nobody's."""
    return account_of(scope).name


def _filled(bucket: _Bucket | None, limit: int | None, now: float) -> _Bucket | None:
    if limit is None:
        return None
    if bucket is None:
        return _Bucket(limit, limit, now)
    bucket.fill(limit, now)
    return bucket
