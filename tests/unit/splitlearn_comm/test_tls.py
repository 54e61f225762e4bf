"""Servers and channels from PEM files: who is let in, and what happens when the files change."""

from pathlib import Path

import grpc
import pytest
import structlog

from splitlearn_comm.certificates import CertifiedKey, self_signed
from splitlearn_comm.errors import BadCertificates
from splitlearn_comm.pinned import pinned_server
from splitlearn_comm.tls import ServerCertificates, TLSFiles, channel_credentials
from support.tls import (
    LONG_AGO,
    NOW,
    EchoClient,
    authority,
    client_of,
    echo_server,
    replace,
    save,
    why_refused,
    worker_of,
)


async def test_a_client_of_the_same_authority_is_served(worker_files: TLSFiles, client_files: TLSFiles) -> None:
    async with (
        echo_server(ServerCertificates(worker_files).credentials()) as address,
        EchoClient(address, channel_credentials(client_files)) as caller,
    ):
        assert await caller.echo(b"row") == b"row"


async def test_a_worker_may_be_the_client_of_the_next_stage(worker_files: TLSFiles) -> None:
    async with (
        echo_server(ServerCertificates(worker_files).credentials()) as address,
        EchoClient(address, channel_credentials(worker_files)) as caller,
    ):
        assert await caller.echo() == b"hello"


async def test_strangers_are_refused(worker_files: TLSFiles, ca: CertifiedKey) -> None:
    other = authority()
    async with echo_server(ServerCertificates(worker_files).credentials()) as address:
        strangers = {
            "without a certificate": grpc.ssl_channel_credentials(ca.certificate),
            **{
                name: grpc.ssl_channel_credentials(ca.certificate, pair.key, pair.certificate)
                for name, pair in {
                    "of another authority": client_of(other),
                    "expired": client_of(ca, is_expired=True),
                    "self-signed": self_signed(NOW),
                }.items()
            },
            "who trusts another authority": grpc.ssl_channel_credentials(other.certificate),
        }
        for stranger, credentials in strangers.items():
            refused = await why_refused(address, credentials)
            assert refused.code() == grpc.StatusCode.UNAVAILABLE, stranger


async def test_a_clients_certificate_does_not_pass_for_a_workers(client_files: TLSFiles) -> None:
    async with echo_server(ServerCertificates(client_files).credentials()) as address:
        refused = await why_refused(address, channel_credentials(client_files))
    assert "CERTIFICATE_VERIFY_FAILED" in str(refused.details())


async def test_a_server_of_no_authority_takes_clients_without_certificates(worker_files: TLSFiles) -> None:
    server = ServerCertificates(TLSFiles(None, worker_files.certificate, worker_files.key))
    async with (
        echo_server(server.credentials()) as address,
        EchoClient(address, channel_credentials(TLSFiles(worker_files.ca))) as caller,
    ):
        assert await caller.echo() == b"hello"


async def test_new_files_serve_new_connections_and_old_ones_live_on(
    worker_files: TLSFiles, client_files: TLSFiles, ca: CertifiedKey, tmp_path: Path
) -> None:
    first, second = worker_of(ca), worker_of(ca)
    save(tmp_path, ca, first, "worker")
    async with (
        echo_server(ServerCertificates(worker_files).credentials()) as address,
        EchoClient(address, channel_credentials(client_files)) as old,
    ):
        assert await old.echo() == b"hello"
        await pinned_server(address, first.fingerprint)

        save(tmp_path, ca, second, "worker")

        await pinned_server(address, second.fingerprint)
        assert await old.echo() == b"hello"
        async with EchoClient(address, channel_credentials(client_files)) as new:
            assert await new.echo() == b"hello"


async def test_a_new_authority_ends_the_old_ones_welcome(
    worker_files: TLSFiles, client_files: TLSFiles, tmp_path: Path
) -> None:
    other = authority()
    async with echo_server(ServerCertificates(worker_files).credentials()) as address:
        before = channel_credentials(client_files)
        save(tmp_path, other, worker_of(other), "worker")
        newcomer = save(tmp_path, other, client_of(other), "newcomer")

        assert (await why_refused(address, before)).code() == grpc.StatusCode.UNAVAILABLE
        async with EchoClient(address, channel_credentials(newcomer)) as caller:
            assert await caller.echo() == b"hello"


@pytest.mark.parametrize("damage", ["half a file", "another key", "gone", "expired"])
async def test_files_that_cannot_be_used_change_nothing_and_are_told_once(
    damage: str, worker_files: TLSFiles, client_files: TLSFiles, ca: CertifiedKey
) -> None:
    assert worker_files.certificate is not None
    assert worker_files.key is not None
    good, key = worker_files.certificate.read_bytes(), worker_files.key.read_bytes()
    served = CertifiedKey(good, key).fingerprint
    async with echo_server(ServerCertificates(worker_files).credentials()) as address:
        if damage == "half a file":
            worker_files.certificate.write_bytes(good[: len(good) // 2])
        elif damage == "another key":
            replace(worker_files.key, worker_of(ca).key)
        elif damage == "gone":
            worker_files.key.unlink()
        else:
            expired = client_of(ca, is_expired=True)
            replace(worker_files.key, expired.key)
            replace(worker_files.certificate, expired.certificate)

        with structlog.testing.capture_logs() as logs:
            for _ in range(3):
                await pinned_server(address, served)
        assert [(each["log_level"], "old content stays" in each["event"]) for each in logs] == [("warning", True)]
        async with EchoClient(address, channel_credentials(client_files)) as on:
            assert await on.echo() == b"hello"

        repaired = worker_of(ca)
        replace(worker_files.key, repaired.key)
        replace(worker_files.certificate, repaired.certificate)
        await pinned_server(address, repaired.fingerprint)


async def test_each_server_learns_of_the_change(worker_files: TLSFiles, ca: CertifiedKey, tmp_path: Path) -> None:
    certificates, second = ServerCertificates(worker_files), worker_of(ca)
    async with echo_server(certificates.credentials()) as one, echo_server(certificates.credentials()) as other:
        save(tmp_path, ca, second, "worker")
        await pinned_server(one, second.fingerprint)
        await pinned_server(other, second.fingerprint)
    assert certificates.not_after == second.not_after


def test_certificate_and_key_may_be_one_file(worker_files: TLSFiles, tmp_path: Path) -> None:
    assert worker_files.certificate is not None
    assert worker_files.key is not None
    both = tmp_path / "both.pem"
    both.write_bytes(worker_files.key.read_bytes() + worker_files.certificate.read_bytes())

    ServerCertificates(TLSFiles(worker_files.ca, both, both)).credentials()


def test_a_missing_file_is_named_with_what_to_do(worker_files: TLSFiles, tmp_path: Path) -> None:
    missing = tmp_path / "no.crt"
    with pytest.raises(BadCertificates, match=r"no\.crt: No such file.*splitlearn certs"):
        ServerCertificates(TLSFiles(missing, worker_files.certificate, worker_files.key))
    with pytest.raises(BadCertificates, match=r"no\.crt: No such file.*splitlearn certs"):
        channel_credentials(TLSFiles(missing))


def test_an_unreadable_file_is_named(worker_files: TLSFiles, tmp_path: Path) -> None:
    with pytest.raises(BadCertificates, match=r"key, .*: Is a directory"):
        ServerCertificates(TLSFiles(worker_files.ca, worker_files.certificate, tmp_path))


def test_files_that_are_no_pair_are_both_named(worker_files: TLSFiles, client_files: TLSFiles) -> None:
    with pytest.raises(BadCertificates, match=r"worker\.crt and .*client\.key: the key is not the certificate's"):
        ServerCertificates(TLSFiles(worker_files.ca, worker_files.certificate, client_files.key))


def test_a_file_without_certificates_is_no_authority(worker_files: TLSFiles) -> None:
    with pytest.raises(BadCertificates, match=r"authorities, .*worker\.key: there is no certificate"):
        ServerCertificates(TLSFiles(worker_files.key, worker_files.certificate, worker_files.key))


def test_an_expired_certificate_is_refused_at_the_start(ca: CertifiedKey, tmp_path: Path) -> None:
    files = save(tmp_path, ca, client_of(ca, is_expired=True), "late")
    with pytest.raises(BadCertificates, match=rf"expired \({LONG_AGO.year}.*renew"):
        channel_credentials(files)


def test_half_a_pair_is_refused(worker_files: TLSFiles) -> None:
    with pytest.raises(BadCertificates, match=r"worker\.crt was given without its key"):
        TLSFiles(worker_files.ca, worker_files.certificate)
    with pytest.raises(BadCertificates, match=r"worker\.key was given without its certificate"):
        TLSFiles(worker_files.ca, key=worker_files.key)


def test_a_server_needs_a_certificate(worker_files: TLSFiles) -> None:
    with pytest.raises(BadCertificates, match="a server needs a certificate"):
        ServerCertificates(TLSFiles(worker_files.ca))
