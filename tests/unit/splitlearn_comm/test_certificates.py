"""What certificates hold, and what is wrong with those that cannot be used."""

import shutil
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from splitlearn_comm.certificates import (
    PINNED_NAME,
    CertifiedKey,
    check_authorities,
    check_pair,
    issue,
    make_authority,
    names_of,
    self_signed,
)
from splitlearn_comm.errors import BadCertificates
from support.tls import LONG_AGO, NOW, authority, client_of, worker_of

SERVER, CLIENT = x509.oid.ExtendedKeyUsageOID.SERVER_AUTH, x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH


@pytest.fixture(scope="module")
def ca() -> CertifiedKey:
    return authority()


def read(pair: CertifiedKey) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pair.certificate)


def usages(certificate: x509.Certificate) -> list[x509.ObjectIdentifier]:
    return list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def test_an_authority_signs_certificates_and_no_authorities(ca: CertifiedKey) -> None:
    extensions = read(ca).extensions
    constraints = extensions.get_extension_for_class(x509.BasicConstraints)
    usage = extensions.get_extension_for_class(x509.KeyUsage)

    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert not usage.value.digital_signature


def test_a_worker_serves_and_connects_and_a_client_connects_alone(ca: CertifiedKey) -> None:
    assert usages(read(worker_of(ca))) == [SERVER, CLIENT]
    assert usages(read(client_of(ca))) == [CLIENT]


def test_what_is_issued_is_no_authority_and_signed_by_this_one(ca: CertifiedKey) -> None:
    issued, signer = read(worker_of(ca)), read(ca)

    issued.verify_directly_issued_by(signer)
    extensions = issued.extensions
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    issuer = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert issuer.key_identifier == signer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert isinstance(issued.public_key(), ec.EllipticCurvePublicKey)


def test_names_and_addresses_are_what_they_are(ca: CertifiedKey) -> None:
    names = ["trunk.example", "10.0.0.5", "2001:db8::1"]

    assert names_of(read(issue(ca, names, is_server=True, now=NOW, days=1))) == names


def test_a_long_name_is_kept_where_it_counts(ca: CertifiedKey) -> None:
    name = ".".join(["trunk"] * 20)

    assert names_of(read(issue(ca, [name], is_server=True, now=NOW, days=1))) == [name]


def test_no_two_certificates_share_a_serial_number_or_a_key(ca: CertifiedKey) -> None:
    made = [worker_of(ca) for _ in range(4)]

    assert len({read(each).serial_number for each in made}) == len({each.key for each in made}) == 4


def test_nothing_that_is_issued_outlives_its_authority() -> None:
    short = make_authority(NOW, 10)

    assert issue(short, ["a"], is_server=True, now=NOW, days=90).not_after == short.not_after
    assert issue(short, ["a"], is_server=True, now=NOW, days=5).not_after < short.not_after


def test_a_clock_that_is_an_hour_behind_takes_a_new_certificate(ca: CertifiedKey) -> None:
    new = worker_of(ca)

    check_pair(new.certificate, new.key, NOW - timedelta(minutes=59))


def test_an_expired_authority_signs_nothing() -> None:
    with pytest.raises(BadCertificates, match="expired"):
        issue(make_authority(LONG_AGO, 1), ["a"], is_server=True, now=NOW, days=1)


def test_a_self_signed_certificate_has_the_one_name() -> None:
    pair = self_signed(NOW)

    assert names_of(read(pair)) == [PINNED_NAME]
    assert usages(read(pair)) == [SERVER]
    read(pair).verify_directly_issued_by(read(pair))


def test_a_key_is_in_no_log_of_the_object(ca: CertifiedKey) -> None:
    assert "PRIVATE" not in repr(ca)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl's command")
def test_openssl_agrees(ca: CertifiedKey, tmp_path: Path) -> None:
    worker, own = worker_of(ca), self_signed(NOW)
    for name, pair in {"ca": ca, "worker": worker, "own": own}.items():
        (tmp_path / name).write_bytes(pair.certificate)

    def openssl(*words: str) -> str:
        return subprocess.run(["openssl", *words], cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    openssl("verify", "-x509_strict", "-CAfile", "ca", "-purpose", "sslserver", "-verify_ip", "127.0.0.1", "worker")
    openssl("verify", "-x509_strict", "-CAfile", "ca", "-purpose", "sslclient", "worker")
    shown = openssl("x509", "-in", "own", "-noout", "-fingerprint", "-sha256")
    assert shown.partition("=")[2].strip().replace(":", "").lower() == own.fingerprint


def test_pairs_that_cannot_be_used_say_why(ca: CertifiedKey) -> None:
    pair = worker_of(ca)
    key = ec.generate_private_key(ec.SECP256R1())
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    other_kind = ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for certificate, wrong_key, reason in (
        (b"", pair.key, "no certificate"),
        (pair.key, pair.key, "no certificate"),
        (pair.certificate[:200], pair.key, "no certificate"),
        (pair.certificate, b"", "not a private key"),
        (pair.certificate, pair.certificate, "not a private key"),
        (pair.certificate, pair.key[:100], "not a private key"),
        (pair.certificate, locked, "encrypted"),
        (pair.certificate, ca.key, "not the certificate's"),
        (pair.certificate, other_kind, "not the certificate's"),
    ):
        with pytest.raises(BadCertificates, match=reason):
            check_pair(certificate, wrong_key, NOW)


def test_time_decides_whether_a_pair_can_be_used(ca: CertifiedKey) -> None:
    pair = worker_of(ca)

    with pytest.raises(BadCertificates, match="expired"):
        check_pair(pair.certificate, pair.key, pair.not_after)
    with pytest.raises(BadCertificates, match="valid from"):
        check_pair(pair.certificate, pair.key, NOW - timedelta(hours=2))


def test_a_file_may_hold_several_authorities(ca: CertifiedKey) -> None:
    assert len(check_authorities(ca.certificate + authority().certificate)) == 2
