"""A server with a self-signed certificate, and clients that know it by its fingerprint.

gRPC for Python cannot compare fingerprints. So a client first asks for the certificate over a connection that trusts
anything and sends nothing, compares, and then lets gRPC trust this one certificate alone. Whoever stands between cannot
pass off another in the first connection, for want of its fingerprint, nor this one in the second, for want of its key.
"""

from __future__ import annotations

import asyncio
import hmac
import ssl
from contextlib import suppress
from dataclasses import dataclass

import grpc

from splitlearn_comm.addresses import split_address
from splitlearn_comm.certificates import PINNED_NAME, CertifiedKey, fingerprint_of
from splitlearn_comm.errors import BadCertificates, TimedOut, Unreachable
from splitlearn_comm.peer_text import clipped


@dataclass(frozen=True)
class PinnedServer:
    """What gRPC needs to trust one certificate alone. It stays good for as long as the server keeps its certificate.

    Attributes:
        credentials: for `grpc.aio.secure_channel`.
        options: for the same channel, beside its others.
    """

    credentials: grpc.ChannelCredentials
    options: tuple[tuple[str, str], ...] = (("grpc.ssl_target_name_override", PINNED_NAME),)


def server_credentials(pair: CertifiedKey) -> grpc.ServerCredentials:
    """A server's credentials for a certificate in memory. Clients are asked for none: give them a token."""
    return grpc.ssl_server_credentials([(pair.key, pair.certificate)])


async def pinned_server(address: str, fingerprint: str, timeout: float = 10.0) -> PinnedServer:
    """Fetches the certificate of the server at HOST:PORT, and compares it with the fingerprint.

    Args:
        fingerprint: SHA-256 of the certificate in hex.
        timeout: seconds.

    Raises:
        BadCertificates: the server has another certificate, or does not speak TLS.
        InvalidAddress, Unreachable, TimedOut.
    """
    certificate_der = await _certificate_of(address, timeout)
    found = fingerprint_of(certificate_der)
    if not hmac.compare_digest(found.encode(), fingerprint.lower().encode()):
        raise BadCertificates(
            f"{address} has the certificate {found[:16]}..., not {fingerprint[:16]}...: the worker has made a new one, "
            "or somebody stands between; copy the line again that the worker printed"
        )
    pem = ssl.DER_cert_to_PEM_cert(certificate_der).encode()
    return PinnedServer(grpc.ssl_channel_credentials(pem))


async def _certificate_of(address: str, timeout: float) -> bytes:
    """The certificate that a server shows, in DER. Nothing is sent to it."""
    host, port = split_address(address)
    try:
        async with asyncio.timeout(timeout):
            _, writer = await asyncio.open_connection(host, port, ssl=_trusts_anything())
    except TimeoutError:
        raise TimedOut(f"{address} did not show a certificate within {timeout:g} s; check network and load") from None
    except ssl.SSLError as error:
        raise BadCertificates(
            f"{address} does not speak TLS as a worker does ({clipped(error.reason or str(error), 100)}); "
            "if it was started with --insecure, give HOST:PORT alone"
        ) from error
    except OSError as error:
        raise Unreachable(
            f"no answer from {address}; check that a server runs there and can be reached ({clipped(str(error), 200)})"
        ) from error
    try:
        certificate_der: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return certificate_der
    finally:
        writer.close()
        # a peer that ends the connection in its own way changes nothing any more
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(1.0):
                await writer.wait_closed()
        # one that does not end it would keep the socket open for half a minute
        writer.transport.abort()


def _trusts_anything() -> ssl.SSLContext:
    """The fingerprint is compared afterwards, before anything is sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # gRPC closes connections that do not negotiate HTTP/2
    context.set_alpn_protocols(["h2"])
    return context
