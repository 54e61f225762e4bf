"""HOST:PORT#TOKEN.FINGERPRINT: all that a client needs to trust a server that nobody else vouches for.

One line, so that one paste joins two machines. Nothing here uses the network.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, Self

from splitlearn_comm.addresses import split_address
from splitlearn_comm.errors import InvalidAddress
from splitlearn_comm.tokens import TOKEN_FORM

_FORM: Final = "HOST:PORT#TOKEN.FINGERPRINT"
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class PinnedAddress:
    """A server's address, the token that it asks for, and the SHA-256 of its certificate in hex.

    Raises:
        InvalidAddress: one of them cannot be. The message never has the token.
    """

    address: str
    token: str = field(repr=False)
    fingerprint: str

    def __post_init__(self) -> None:
        split_address(self.address)
        if not TOKEN_FORM.fullmatch(self.token):
            raise InvalidAddress(f"the token behind {self.address}# cannot be one; paste {_FORM} whole")
        if not _FINGERPRINT.fullmatch(self.fingerprint):
            raise InvalidAddress(
                f"behind {self.address}# and the token is no fingerprint, which has 64 hex digits; paste {_FORM} whole"
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads HOST:PORT#TOKEN.FINGERPRINT. Raises InvalidAddress."""
        address, mark, suffix = text.partition("#")
        if not mark:
            # it is not shown: a token may be all that it is
            raise InvalidAddress(f"there is no # behind the address; paste {_FORM} whole")
        token, _, fingerprint = suffix.rpartition(".")
        return cls(address, token, fingerprint.lower())

    def line(self) -> str:
        """HOST:PORT#TOKEN.FINGERPRINT. Whoever reads it can use the server."""
        return f"{self.address}#{self.token}.{self.fingerprint}"


def is_pinned(text: str) -> bool:
    """Whether an address has a token and a fingerprint behind it, or something that should be these."""
    return "#" in text


def split_pins(text: str) -> tuple[str, dict[str, PinnedAddress]]:
    """Takes the secrets out of addresses with commas between them.

    Returns:
        The addresses alone, which may be shown, and for each that has them its token and fingerprint.

    Raises:
        InvalidAddress: what is behind a # cannot be these, or one address has two of them.
    """
    if not is_pinned(text):
        return text, {}
    addresses, pins = [], dict[str, PinnedAddress]()
    for each in filter(None, (each.strip() for each in text.split(","))):
        address = each
        if is_pinned(each):
            pinned = PinnedAddress.parse(each)
            address = pinned.address
            if pins.setdefault(address, pinned) != pinned:
                raise InvalidAddress(f"{address} is given with two different tokens or fingerprints; give one")
        addresses.append(address)
    return ",".join(addresses), pins
