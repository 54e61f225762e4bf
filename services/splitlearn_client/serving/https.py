"""TLS of the API, and what everybody can do who reaches it without."""

import ssl
from pathlib import Path

import structlog

from splitlearn_comm.errors import BadCertificates
from splitlearn_comm.tls import TLSFiles, watched

log = structlog.get_logger()


class HTTPSCertificate:
    """One SSL context, which gets the files' new content when they change. Open connections keep the old one.

    Args:
        certificate: PEM file, which may have the key too.
        key: PEM file; None if it is in the other.

    Raises:
        BadCertificates: a file is missing or unreadable, or they cannot be used together.
    """

    def __init__(self, certificate: Path, key: Path | None) -> None:
        self._certificate = certificate
        self._key = key or certificate
        self._files = watched(TLSFiles(None, certificate, self._key))
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        # the server speaks HTTP/1.1 alone
        self.context.set_alpn_protocols(["http/1.1"])
        self._load()

    async def watch(self) -> None:
        """Takes new files when there are some, until cancelled. Those that cannot be used change nothing."""
        async for loaded in self._files.changes():
            try:
                self._load()
            except BadCertificates as error:
                # they have changed again meanwhile
                log.warning("certificate cannot be used", reason=str(error))
            else:
                log.info("certificate was read again", not_after=str(loaded.not_after))

    def _load(self) -> None:
        try:
            self.context.load_cert_chain(self._certificate, self._key)
        except (OSError, ssl.SSLError) as error:
            raise BadCertificates(f"{self._certificate} and {self._key}: {error}") from error


def https_certificate(certificate: Path | None, key: Path | None) -> HTTPSCertificate | None:
    """The certificate of settings; None if there is none, which means HTTP. Raises BadCertificates."""
    if certificate is None:
        if key is not None:
            raise BadCertificates(f"{key} was given without its certificate; give --ssl-certfile as well")
        return None
    return HTTPSCertificate(certificate, key)


def exposure(*, is_encrypted: bool, asks_for_keys: bool) -> str | None:
    """What others can do who reach the API over a network, with what to do about it; None if nothing."""
    open_to = []
    if not is_encrypted:
        what = "prompts, answers and keys" if asks_for_keys else "prompts and answers"
        open_to.append(f"no TLS: whoever is in between reads {what} (--ssl-certfile)")
    if not asks_for_keys:
        open_to.append("no keys: whoever reaches the port may use it (--api-key, --tenants)")
    return "; ".join(open_to) or None
