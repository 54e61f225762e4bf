"""What workers learn of a tenant: an id that is the same for all its sessions, and says nothing else.

An id is an HMAC (RFC 2104) over the tenant's name, with a key that never leaves this process. So a worker can let
tenants take turns, but cannot tell a tenant's name, not even by trying likely ones, and two clients' tenants never have
the same id.
"""

import hmac
import secrets

_ID_BYTES = 16


class TenantIds:
    """Ids by one random key. An id is a text of 32 hexadecimal digits; empty for those without a name."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def id_of(self, name: str) -> str:
        """The id of the tenant with this name."""
        return hmac.digest(self._key, name.encode(), "sha256")[:_ID_BYTES].hex() if name else ""
