"""How a worker's port is protected, decided from its settings alone."""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from splitlearn_comm.errors import BadToken

_ANYBODY: Final = "no token: whoever reaches the port can use this worker"
_IN_CLEAR: Final = "no encryption: whoever is in between can read and change what clients send"


class Encryption(Enum):
    """What encrypts the connections.

    NONE: nothing.
    GIVEN: the certificate of the settings.
    OWN: a self-signed certificate that the worker makes; clients know it by its fingerprint.
    """

    NONE = auto()
    GIVEN = auto()
    OWN = auto()


@dataclass(frozen=True)
class Protection:
    """What the port has.

    Attributes:
        encryption: of its connections.
        makes_token: whether the worker makes a token, as none was given.
        warning: what everybody can do who reaches the port, for the operator who allowed it; None if nothing.
    """

    encryption: Encryption
    makes_token: bool = False
    warning: str | None = None


def protection(
    *, is_public: bool, has_certificate: bool, checks_clients: bool, has_token: bool, is_insecure: bool
) -> Protection:
    """What a port gets.

    Args:
        is_public: other machines may reach it.
        has_certificate: a certificate was given, or another file of TLS.
        checks_clients: authorities were given, so that clients need a certificate of theirs.
        has_token: a token or a file of tokens was given.
        is_insecure: the operator allowed to leave the port open.

    Raises:
        BadToken: everybody could use the worker, and nobody allowed that.
    """
    is_open = is_public and not checks_clients and not has_token
    if has_certificate:
        if is_open and not is_insecure:
            raise BadToken(
                "everybody on the network could use this worker: it asks clients for neither a certificate nor a "
                "token; give --tls-ca, --token-file or --token, or allow it with --insecure"
            )
        return Protection(Encryption.GIVEN, warning=_ANYBODY if is_open else None)
    if not is_public:
        return Protection(Encryption.NONE)
    if not is_insecure:
        return Protection(Encryption.OWN, makes_token=not has_token)
    return Protection(Encryption.NONE, warning=f"{_IN_CLEAR}; {_ANYBODY}" if is_open else _IN_CLEAR)
