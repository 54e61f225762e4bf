"""The responses that later requests may go on with, in memory and under a bound.

Pure.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

# of objects and tables, beside the bytes themselves
_OVERHEAD: Final = 1024


@dataclass(frozen=True)
class StoredResponse:
    """One response.

    Attributes:
        body: the JSON that it was answered with.
        messages: the conversation up to it and with it, as the JSON of a chat's messages.
    """

    body: bytes
    messages: bytes

    @property
    def n_bytes(self) -> int:
        return len(self.body) + len(self.messages) + _OVERHEAD


@dataclass
class _Kept:
    """A tenant's responses by id, the oldest first."""

    responses: OrderedDict[str, StoredResponse] = field(default_factory=OrderedDict)
    n_bytes: int = 0


class ResponseStore:
    """Responses of all tenants, each found by its own tenant alone.

    When they would take more than the bound, the oldest of the tenant that has most go first, so that nobody displaces
    what another tenant keeps within its share.

    Args:
        most_bytes: of all responses together; 0 keeps none.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._tenants: dict[str, _Kept] = {}
        self.n_bytes = 0

    def add(self, tenant: str, identity: str, response: StoredResponse) -> bool:
        """Keeps a new response; whether it could be, as one that is larger than the bound cannot."""
        if response.n_bytes > self._most_bytes:
            return False
        while self.n_bytes + response.n_bytes > self._most_bytes:
            self._evict()
        kept = self._tenants.setdefault(tenant, _Kept())
        kept.responses[identity] = response
        self._grow(kept, response.n_bytes)
        return True

    def get(self, tenant: str, identity: str) -> StoredResponse | None:
        kept = self._tenants.get(tenant)
        return None if kept is None else kept.responses.get(identity)

    def remove(self, tenant: str, identity: str) -> bool:
        """Whether it was there."""
        if self.get(tenant, identity) is None:
            return False
        self._drop(tenant, identity)
        return True

    def _evict(self) -> None:
        largest = max(self._tenants, key=lambda name: self._tenants[name].n_bytes)
        self._drop(largest, next(iter(self._tenants[largest].responses)))

    def _drop(self, tenant: str, identity: str) -> None:
        kept = self._tenants[tenant]
        self._grow(kept, -kept.responses.pop(identity).n_bytes)
        if not kept.responses:
            del self._tenants[tenant]

    def _grow(self, kept: _Kept, n_bytes: int) -> None:
        kept.n_bytes += n_bytes
        self.n_bytes += n_bytes
