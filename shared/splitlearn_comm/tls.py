"""TLS for both ends from PEM files; a server takes new files without a restart."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import grpc
import structlog

from splitlearn_comm.certificates import check_authorities, check_pair
from splitlearn_comm.errors import BadCertificates
from splitlearn_comm.file_changes import WatchedFiles

log = structlog.get_logger(__name__)

_MAKE_NEW: Final = "`splitlearn certs` makes such files"


@dataclass(frozen=True)
class TLSFiles:
    """The PEM files of one end. Certificate and key may be one file.

    Attributes:
        ca: the authorities that vouch for the other end. A server without it asks clients for no certificate; a client
            without it trusts the authorities that come with gRPC.
        certificate: this end's certificate, and behind it those of authorities between it and the other end's `ca`.
            None only for a client of a server that asks for none.
        key: the certificate's private key.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            missing, given = ("key", self.certificate) if self.key is None else ("certificate", self.key)
            raise BadCertificates(f"{given} was given without its {missing}; give both, or neither")


def tls_files(ca: Path | None, certificate: Path | None, key: Path | None) -> TLSFiles | None:
    """The files that were given; None if none was, which means no TLS.

    Raises:
        BadCertificates: a certificate without its key, or a key without its certificate.
    """
    return TLSFiles(ca, certificate, key) if ca or certificate or key else None


@dataclass(frozen=True)
class LoadedFiles:
    """Files that were read and fit together. `not_after` is when the certificate expires."""

    ca: bytes | None
    certificate: bytes | None
    key: bytes | None = field(repr=False)
    not_after: datetime | None


def channel_credentials(files: TLSFiles) -> grpc.ChannelCredentials:
    """A client's credentials, from what the files hold now. A channel keeps them: make new ones for each new channel.

    Raises:
        BadCertificates: a file is missing or unreadable, or certificate and key cannot be used.
    """
    loaded = _load(files)
    return grpc.ssl_channel_credentials(loaded.ca, loaded.key, loaded.certificate)


class ServerCertificates:
    """A server's certificate, read again whenever one of its files has changed.

    gRPC asks before each handshake, on threads of its own. Connections that are open keep the certificate that they
    began with. Files that cannot be used change nothing: the server goes on with what it has, and logs the reason once.

    Raises:
        BadCertificates: no certificate was given, a file is missing or unreadable, or certificate and key cannot be
            used.
    """

    def __init__(self, files: TLSFiles) -> None:
        if files.certificate is None:
            raise BadCertificates(f"a server needs a certificate and its key; {_MAKE_NEW}")
        self._asks_clients = files.ca is not None
        self._files = watched(files)

    @property
    def not_after(self) -> datetime:
        """When the certificate that is served now expires."""
        return self._files.value.not_after or datetime.max.replace(tzinfo=UTC)

    def credentials(self) -> grpc.ServerCredentials:
        """For one call of `add_secure_port`: gRPC learns of a change once for each of these."""
        given = self._files.value

        def changed() -> grpc.ServerCertificateConfiguration | None:
            nonlocal given
            self.read_again()
            if given is (loaded := self._files.value):
                return None
            given = loaded
            return _configuration(given)

        return grpc.dynamic_ssl_server_credentials(
            _configuration(given), changed, require_client_authentication=self._asks_clients
        )

    def read_again(self) -> bool:
        """Reads the files if they are others than last time. True if they were, and can be used. On any thread."""
        if not self._files.look():
            return False
        log.info("certificate was read again", not_after=self.not_after.isoformat())
        return True


def _configuration(loaded: LoadedFiles) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(loaded.key, loaded.certificate)], loaded.ca)


def watched(files: TLSFiles) -> WatchedFiles[LoadedFiles]:
    """The files, to be read again when they change. Raises BadCertificates."""
    paths = (files.ca, files.certificate, files.key)
    return WatchedFiles("certificate", paths, lambda: _load(files), BadCertificates)


def _load(files: TLSFiles) -> LoadedFiles:
    """Reads and checks all files. Raises BadCertificates."""
    ca, certificate, key = (
        None if path is None else _read(path, name)
        for path, name in ((files.ca, "authorities"), (files.certificate, "certificate"), (files.key, "key"))
    )
    if ca is not None:
        try:
            check_authorities(ca)
        except BadCertificates as error:
            raise BadCertificates(f"the file of the authorities, {files.ca}: {error}; {_MAKE_NEW}") from error
    not_after = None
    if certificate is not None and key is not None:
        try:
            not_after = check_pair(certificate, key, datetime.now(UTC)).not_valid_after_utc
        except BadCertificates as error:
            raise BadCertificates(f"{files.certificate} and {files.key}: {error}; {_MAKE_NEW}") from error
    return LoadedFiles(ca, certificate, key, not_after)


def _read(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadCertificates(
            f"cannot read the file of the {name}, {path}: {error.strerror}; check path and permissions, {_MAKE_NEW}"
        ) from error
