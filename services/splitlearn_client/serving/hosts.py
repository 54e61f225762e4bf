"""Which Host headers are allowed.

A web page can make its own host name resolve to this machine, and then call a service on loopback from the reader's
browser (DNS rebinding). Such requests carry the page's host name, so a Host that is an IP address is safe.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

# characters of names, addresses and ports, and none that could make a user or a path in a URL
_HOST = re.compile(r"[\w.:%\[\]-]{1,300}", re.ASCII)


@dataclass(frozen=True)
class AllowedHosts:
    """Names in lower case. `*.example.com` allows every subdomain of example.com, `*` any name. IP addresses are always
    allowed.
    """

    names: frozenset[str]

    @classmethod
    def of(cls, given: Iterable[str] | None, host: str, *, only_loopback: bool) -> "AllowedHosts":
        """The names of the settings, `localhost` and the service's own host.

        Args:
            given: names in lower case; None allows any name, but on loopback only `localhost`.
            host: the setting `host`.
            only_loopback: whether only this machine can connect.
        """
        if given is not None:
            names = set(given)
        elif only_loopback:
            names = set()
        else:
            names = {"*"}
        return cls(frozenset(names | {"localhost", "*.localhost", host.lower()}))

    def allow(self, header: str) -> bool:
        """Whether a Host header, with or without a port, is allowed."""
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
