"""The API keys that are valid now. The file of tenants is read again when it changes."""

import asyncio
from pathlib import Path
from typing import Final, Self

import structlog

from splitlearn_client.errors import BadTenants
from splitlearn_client.quotas import Account, Accounts
from splitlearn_client.settings import ClientSettings
from splitlearn_client.tenants import Keyring, Tenant, parse_tenants

log = structlog.get_logger()

_LOOK_SECONDS: Final = 1.0

# What tells one content of a file from another without reading it.
_Identity = tuple[int, int, int, int]


class TenantDirectory:
    """Finds the account of a key. Used on the event loop's thread.

    Args:
        path: the file of tenants; see `splitlearn_client.tenants`.
        api_key: one more key. Without both, everybody is let in.

    Raises:
        BadTenants: the file cannot be read, or is invalid.
    """

    def __init__(self, path: Path | None, api_key: str | None) -> None:
        self._path = path
        self._api_key = api_key
        self._accounts = Accounts()
        # taken before the file is read, so that a change in between is seen at the next look
        self._seen = _identity(path)
        self._keyring = _read(path, api_key)
        self._accounts.replace(_tenants(self._keyring))

    @classmethod
    def of(cls, settings: ClientSettings) -> Self:
        """Raises BadTenants."""
        api_key = None if settings.api_key is None else settings.api_key.get_secret_value()
        return cls(settings.tenants, api_key)

    @property
    def needs_key(self) -> bool:
        """Whether callers need a key."""
        return self._keyring is not None

    def find(self, key: bytes | None) -> Account | None:
        """The account of whose key it is; None if nobody's. Without any valid key, everybody has the same account."""
        tenant = _ANYBODY if self._keyring is None else None if key is None else self._keyring.find(key)
        return None if tenant is None else self._accounts.of(tenant)

    async def watch(self) -> None:
        """Reads the file when it has changed; runs until cancelled."""
        while self._path is not None:
            await asyncio.sleep(_LOOK_SECONDS)
            await self._look()

    async def _look(self) -> None:
        found = await asyncio.to_thread(_identity, self._path)
        if found == self._seen:
            return
        self._seen = found
        try:
            self._keyring = await asyncio.to_thread(_read, self._path, self._api_key)
        except BadTenants as error:
            log.warning("new tenants cannot be used, the old ones stay", reason=str(error))
            return
        tenants = _tenants(self._keyring)
        self._accounts.replace(tenants)
        log.info("tenants were read again", tenants=len(tenants))


_ANYBODY: Final = Tenant("")


def _tenants(keyring: Keyring | None) -> frozenset[Tenant]:
    return frozenset({_ANYBODY}) if keyring is None else keyring.tenants


def _read(path: Path | None, api_key: str | None) -> Keyring | None:
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


def _identity(path: Path | None) -> _Identity | None:
    """None if there is no such file now."""
    try:
        found = None if path is None else path.stat()
    except OSError:
        return None
    return found and (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
