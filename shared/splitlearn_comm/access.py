"""What a client needs beside a worker's address: how it is encrypted, whose certificate is expected, and a token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol, Self

import grpc

from splitlearn_comm.addresses import is_loopback, split_address
from splitlearn_comm.errors import BadToken, InvalidAddress
from splitlearn_comm.pinned import pinned_server
from splitlearn_comm.pinned_address import PinnedAddress, is_pinned
from splitlearn_comm.tls import TLSFiles, channel_credentials, tls_files
from splitlearn_comm.token_files import given_tokens
from splitlearn_comm.tokens import HEADER

_LOCAL_SCHEMES: Final = ("unix:", "unix-abstract:")


@dataclass(frozen=True)
class Access:
    """How a client connects, and what it says who it is. Without anything: in clear, and without a token.

    Attributes:
        tls: this end's files; None connects in clear, unless there is a fingerprint.
        token: gives the token that is sent with the next call; None sends none.
        fingerprint: SHA-256 in hex of the only certificate that is accepted; `tls` is not used then.
        is_insecure: whether the token may be sent in clear to another machine.
    """

    tls: TLSFiles | None = None
    token: Callable[[], str] | None = field(default=None, repr=False)
    fingerprint: str | None = None
    is_insecure: bool = False

    @classmethod
    def given(
        cls,
        ca: Path | None = None,
        certificate: Path | None = None,
        key: Path | None = None,
        *,
        token: str | None = None,
        token_file: Path | None = None,
        is_insecure: bool = False,
    ) -> Self:
        """From settings.

        Raises:
            BadCertificates, BadToken: files or token cannot be used.
        """
        files, tokens = tls_files(ca, certificate, key), given_tokens(token, token_file)
        if files is not None:
            # what is wrong with the files is said at the start
            channel_credentials(files)
        return cls(files, None if tokens is None else lambda: tokens.first, is_insecure=is_insecure)

    def pinned(self, pin: PinnedAddress) -> Access:
        """The access to a worker whose token and fingerprint are known."""
        return Access(None, lambda: pin.token, pin.fingerprint)

    @property
    def is_encrypted(self) -> bool:
        return self.tls is not None or self.fingerprint is not None

    def check(self, target: str) -> None:
        """Raises BadToken if the token would be sent in clear to another machine."""
        if self.token is None or self.is_encrypted or self.is_insecure or _is_local(target):
            return
        raise BadToken(
            f"the token for {target} would be sent without encryption, for everybody in between to use; give "
            "certificates, or HOST:PORT#TOKEN.FINGERPRINT as the worker prints it, or allow it with the flag for that"
        )

    def metadata(self) -> tuple[tuple[str, str], ...] | None:
        """For each call."""
        return None if self.token is None else ((HEADER, f"Bearer {self.token()}"),)

    def secured(self) -> Secured | None:
        """For a new connection, from what the files hold now; None for one in clear.

        Raises:
            BadCertificates: the files cannot be used.
        """
        return None if self.tls is None else Secured(channel_credentials(self.tls))

    async def compared(self, target: str, timeout: float) -> Secured | None:
        """For a new connection to a worker whose fingerprint is known, after its certificate was compared; else None.

        Raises:
            BadCertificates: the worker has another certificate, or does not speak TLS.
            Unreachable, TimedOut: no worker answers.
        """
        if self.fingerprint is None:
            return None
        server = await pinned_server(target, self.fingerprint, timeout)
        return Secured(server.credentials, server.options)


@dataclass(frozen=True)
class Secured:
    """Credentials for one channel, and options for it beside its others."""

    credentials: grpc.ChannelCredentials
    options: tuple[tuple[str, str], ...] = ()


class TLSSettings(Protocol):
    """Settings that name this end's files."""

    @property
    def tls_ca(self) -> Path | None: ...

    @property
    def tls_cert(self) -> Path | None: ...

    @property
    def tls_key(self) -> Path | None: ...


class Secret(Protocol):
    """A text that shows itself to nobody but who asks for it, as pydantic's SecretStr."""

    def get_secret_value(self) -> str: ...


def access_from(settings: TLSSettings, token: Secret | None, token_file: Path | None, *, is_insecure: bool) -> Access:
    """The access that settings describe, to workers whose address has no token and fingerprint behind it.

    Raises:
        BadCertificates, BadToken: files or token cannot be used.
    """
    return Access.given(
        settings.tls_ca,
        settings.tls_cert,
        settings.tls_key,
        token=None if token is None else token.get_secret_value(),
        token_file=token_file,
        is_insecure=is_insecure,
    )


def access_to(text: str, general: Access) -> tuple[str, Access]:
    """One worker's address without its secrets, and the access to it: its own if it has secrets, else the general one.

    Raises:
        InvalidAddress: what is behind the # cannot be a token and a fingerprint.
    """
    if not is_pinned(text):
        return text, general
    pin = PinnedAddress.parse(text)
    return pin.address, general.pinned(pin)


def _is_local(target: str) -> bool:
    """Whether what is sent there stays on this machine."""
    if target.startswith(_LOCAL_SCHEMES):
        return True
    try:
        host = split_address(target.rpartition("/")[2])[0]
    except InvalidAddress:
        return False
    return is_loopback(host) or host.lower() == "localhost"
