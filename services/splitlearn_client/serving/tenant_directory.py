"""The API keys that are valid now. The file of tenants is read again when it changes."""

from pathlib import Path
from typing import Final, Self

import structlog

from splitlearn_client.errors import BadTenants
from splitlearn_client.quotas import Account, Accounts
from splitlearn_client.settings import ClientSettings
from splitlearn_client.tenants import Tenant, parse_tenants
from splitlearn_comm.file_changes import WatchedFiles
from splitlearn_comm.tokens import Keyring

log = structlog.get_logger()


class TenantDirectory:
    """Finds the account of a key. Used on the event loop's thread.

    Args:
        path: the file of tenants; see `splitlearn_client.tenants`.
        api_key: one more key. Without both, everybody is let in.

    Raises:
        BadTenants: the file cannot be read, or is invalid.
    """

    def __init__(self, path: Path | None, api_key: str | None) -> None:
        self._files = WatchedFiles("tenants", (path,), lambda: _read(path, api_key), BadTenants)
        self._accounts = Accounts()
        self._take(self._files.value)

    @classmethod
    def of(cls, settings: ClientSettings) -> Self:
        """Raises BadTenants."""
        api_key = None if settings.api_key is None else settings.api_key.get_secret_value()
        return cls(settings.tenants, api_key)

    @property
    def needs_key(self) -> bool:
        """Whether callers need a key."""
        return self._keyring is not None

    def find(self, key: str | None) -> Account | None:
        """The account of whose key it is; None if nobody's. Without any valid key, everybody has the same account."""
        tenant = _ANYBODY if self._keyring is None else None if key is None else self._keyring.find(key)
        return None if tenant is None else self._accounts.of(tenant)

    async def watch(self) -> None:
        """Reads the file when it has changed; runs until cancelled."""
        async for keyring in self._files.changes():
            log.info("tenants were read again", tenants=self._take(keyring))

    def _take(self, keyring: Keyring[Tenant] | None) -> int:
        """Returns how many tenants there are. Not on the thread that reads: keys and accounts change together."""
        self._keyring = keyring
        tenants = frozenset({_ANYBODY}) if keyring is None else keyring.owners
        self._accounts.replace(tenants)
        return len(tenants)


_ANYBODY: Final = Tenant("")


def _read(path: Path | None, api_key: str | None) -> Keyring[Tenant] | None:
    """None if neither is given. Raises BadTenants."""
    if path is None:
        return None if api_key is None else parse_tenants("", api_key)
    try:
        return parse_tenants(path.read_bytes().decode(), api_key)
    except OSError as error:
        raise BadTenants(f"--tenants {path}: {error.strerror}; check path and permissions") from error
    except UnicodeDecodeError:
        raise BadTenants(f"--tenants {path}: this is not UTF-8") from None
    except BadTenants as error:
        raise BadTenants(f"--tenants {path}: {error}") from None
