"""X.509 certificates and their keys: a local authority, what it signs, self-signed ones, and what is wrong with a pair.

Keys are ECDSA P-256. Everything is PEM. No files, no sockets, and no clock: the caller says what time it is.
"""

from __future__ import annotations

import hashlib
import ipaddress
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from splitlearn_comm.errors import BadCertificates
from splitlearn_comm.peer_text import clipped

PINNED_NAME: Final = "splitlearn.pinned"
"""The name in every self-signed certificate: who connects to it knows its fingerprint, whatever the host is called."""

# The other machine's clock may be behind.
_CLOCK_SKEW: Final = timedelta(hours=1)
# X.520 allows no longer common name; names that count are in the subject alternative name.
_LONGEST_COMMON_NAME: Final = 64


@dataclass(frozen=True)
class CertifiedKey:
    """A certificate, or a chain that begins with it, and its private key; both PEM."""

    certificate: bytes
    key: bytes = field(repr=False)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate in hex, as `openssl x509 -fingerprint -sha256` shows it with colons."""
        return fingerprint_of(x509.load_pem_x509_certificate(self.certificate).public_bytes(Encoding.DER))

    @property
    def not_after(self) -> datetime:
        """When the certificate expires."""
        return x509.load_pem_x509_certificate(self.certificate).not_valid_after_utc


def fingerprint_of(certificate_der: bytes) -> str:
    """SHA-256 of a certificate in hex."""
    return hashlib.sha256(certificate_der).hexdigest()


def make_authority(now: datetime, days: int) -> CertifiedKey:
    """A new local authority. It can sign certificates of workers and clients, and no further authorities."""
    key = ec.generate_private_key(ec.SECP256R1())
    # two authorities of one name would confuse who reads a failed handshake
    name = _named(f"SplitLearn local CA {secrets.token_hex(8)}")
    builder = _builder(name, name, key.public_key(), now, now + timedelta(days=days))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
    return _signed(builder, key, key)


def issue(authority: CertifiedKey, names: Sequence[str], *, is_server: bool, now: datetime, days: int) -> CertifiedKey:
    """A new key, and its certificate signed by `authority`. It ends with the authority at the latest.

    Args:
        names: host names and IP addresses; the first is also the common name.
        is_server: it may serve as well as connect; otherwise it may only connect.

    Raises:
        BadCertificates: the authority has expired, or its key is not its own.
    """
    signer = check_pair(authority.certificate, authority.key, now)
    signing_key = load_pem_private_key(authority.key, None)
    key = ec.generate_private_key(ec.SECP256R1())
    until = min(now + timedelta(days=days), signer.not_valid_after_utc)
    builder = _builder(_named(names[0]), signer.subject, key.public_key(), now, until)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
    server_too = [ExtendedKeyUsageOID.SERVER_AUTH] if is_server else []
    builder = builder.add_extension(
        x509.ExtendedKeyUsage([*server_too, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
    )
    builder = builder.add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
    return _signed(builder, key, signing_key)  # type: ignore[arg-type]  # an authority's key is ours


def self_signed(now: datetime, days: int = 3650) -> CertifiedKey:
    """A server's certificate that nobody vouches for: who connects compares its fingerprint."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _named(PINNED_NAME)
    builder = _builder(name, name, key.public_key(), now, now + timedelta(days=days))
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(PINNED_NAME)]), critical=False)
    return _signed(builder, key, key)


def names_of(certificate: x509.Certificate) -> list[str]:
    """The host names and IP addresses that a certificate is for."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    return [*names.get_values_for_type(x509.DNSName), *addresses]


def check_pair(certificate: bytes, key: bytes, now: datetime) -> x509.Certificate:
    """The first certificate of a PEM file, if it can be used now with this key.

    Raises:
        BadCertificates: no certificate or no key, a key that is encrypted or another certificate's, or a certificate
            that has expired or is not valid yet.
    """
    found = check_authorities(certificate)[0]
    try:
        private = load_pem_private_key(key, None)
    except TypeError as error:
        raise BadCertificates("the key is encrypted; store it without a passphrase") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadCertificates("the key is not a private key in PEM format") from error
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    if private.public_key().public_bytes(*form) != found.public_key().public_bytes(*form):
        raise BadCertificates("the key is not the certificate's; give two files that were made together")
    if now >= found.not_valid_after_utc:
        raise BadCertificates(f"the certificate has expired ({found.not_valid_after_utc:%Y-%m-%d %H:%M} UTC); renew it")
    if now < found.not_valid_before_utc:
        raise BadCertificates(
            f"the certificate is valid from {found.not_valid_before_utc:%Y-%m-%d %H:%M} UTC on; check this clock"
        )
    return found


def check_issued(
    pair: CertifiedKey, authority: CertifiedKey, names: Sequence[str], *, is_server: bool, now: datetime
) -> None:
    """Checks that `issue` would make a pair like this one.

    Raises:
        BadCertificates: it cannot be used now, is another authority's, or is for other names or another purpose.
    """
    found = check_pair(pair.certificate, pair.key, now)
    try:
        found.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.certificate))
    except (ValueError, TypeError, InvalidSignature) as error:
        raise BadCertificates("the certificate was signed by another authority") from error
    if set(names_of(found)) != {str(_general(name).value) for name in names}:
        raise BadCertificates(f"the certificate is for {', '.join(names_of(found)) or 'no name'}")
    try:
        usages = found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        usages = x509.ExtendedKeyUsage([])
    if (ExtendedKeyUsageOID.SERVER_AUTH in usages) != is_server:
        raise BadCertificates(f"the certificate is a {'client' if is_server else 'worker'}'s")


def check_authorities(certificates: bytes) -> list[x509.Certificate]:
    """All certificates of a PEM file, at least one. Raises BadCertificates."""
    try:
        return x509.load_pem_x509_certificates(certificates)
    except ValueError as error:
        reason = clipped(" ".join(str(error).split()), 200)
        raise BadCertificates(f"there is no certificate in PEM format in it ({reason})") from error


def _named(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:_LONGEST_COMMON_NAME])])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, until: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _signed(
    builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey, signing_key: ec.EllipticCurvePrivateKey
) -> CertifiedKey:
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key())
    signed = builder.add_extension(issuer, critical=False).sign(signing_key, hashes.SHA256())
    return CertifiedKey(
        signed.public_bytes(Encoding.PEM), key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
