"""Which names a request may give as its Host.

A page of a stranger can have its own name resolve to this machine and then speak to a service on loopback through the
reader's browser (DNS rebinding). Its requests name the stranger's host; what names an address cannot be one of them.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

# letters of names, addresses and ports; nothing that a URL would take for a user or a path
_HOST = re.compile(r"[\w.:%\[\]-]{1,300}", re.ASCII)


@dataclass(frozen=True)
class AllowedHosts:
    """Names in lower case; `*.example.com` takes every name below example.com, `*` any. Addresses always pass."""

    names: frozenset[str]

    @classmethod
    def of(cls, given: Iterable[str] | None, host: str, bound: Iterable[str]) -> "AllowedHosts":
        """What the settings say, and a service's own name.

        Args:
            given: names in lower case; None takes any, or on loopback only `localhost`.
            host: what the service was told to listen on.
            bound: the addresses that it listens on.
        """
        if given is not None:
            names = set(given)
        elif all(ip_address(address.partition("%")[0]).is_loopback for address in bound):
            names = set()
        else:
            names = {"*"}
        return cls(frozenset(names | {"localhost", "*.localhost", host.lower()}))

    def take(self, header: str) -> bool:
        """Whether a Host header, with or without a port, names this service."""
        if "*" in self.names:
            return True
        if not _HOST.fullmatch(header):
            return False
        try:
            host = (urlsplit(f"//{header}").hostname or "").rstrip(".")
        except ValueError:
            return False
        if host in self.names or _is_address(host):
            return True
        above = host
        while "." in above:
            above = above.partition(".")[2]
            if f"*.{above}" in self.names:
                return True
        return False


def _is_address(host: str) -> bool:
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
