"""The addresses behind `--trunk`: a list of HOST:PORT, each of which may be a name with several addresses."""

import asyncio
import socket

from splitlearn_comm.addresses import is_literal, join_address, split_address, split_address_list
from splitlearn_comm.errors import InvalidAddress

# Schemes of grpc's resolvers, whose targets are one replica each
_SCHEMES = ("unix:", "unix-abstract:", "dns:", "ipv4:", "ipv6:", "vsock:")

MOST_ADDRESSES = 256
"""Each is polled all the time. Whoever answers for a name decides how many it has."""


class Discovery:
    """Resolves the addresses, again and again, because names change where replicas come and go.

    Raises:
        InvalidAddress: the text is neither a list of HOST:PORT nor a target of grpc.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._fixed: tuple[str, ...] = ()
        self._names: tuple[str, ...] = ()
        if text.startswith(_SCHEMES):
            self._fixed = (text,)
            return
        for address in split_address_list(text):
            host, _ = split_address(address)
            if is_literal(host):
                self._fixed += (address,)
            else:
                self._names += (address,)
        # what each name resolved to last: a resolver that fails for a while takes no replica away
        self._resolved: dict[str, tuple[str, ...]] = {}
        self.troubles: tuple[str, ...] = ()
        """What went wrong in the last call of `addresses`; each with what to check."""

    @property
    def is_fixed(self) -> bool:
        """Whether the addresses never change."""
        return not self._names

    async def addresses(self) -> dict[str, str]:
        """All addresses now, each with the one that was given for it.

        Raises:
            InvalidAddress: no name has ever resolved, and no other address is given.
        """
        found, troubles = {address: address for address in self._fixed}, list[str]()
        for name in self._names:
            try:
                self._resolved[name] = await _resolve(name)
            except (OSError, UnicodeError) as error:
                # Python raises UnicodeError for a name with an empty part, or with one of more than 63 characters
                troubles.append(f"{name} does not resolve to an address ({error}); check --trunk and the name server")
            found |= dict.fromkeys(self._resolved.get(name, ()), name)
        if len(found) > MOST_ADDRESSES:
            troubles.append(f"{self.text} has {len(found)} addresses; only {MOST_ADDRESSES} of them are used")
            # always the same ones, in whatever order they came
            found = dict(sorted(found.items())[:MOST_ADDRESSES])
        self.troubles = tuple(troubles)
        if not found:
            raise InvalidAddress("; ".join(troubles))
        return found


async def _resolve(address: str) -> tuple[str, ...]:
    host, port = split_address(address)
    answers = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return tuple(join_address(str(sockaddr[0]), port) for *_, sockaddr in answers)
