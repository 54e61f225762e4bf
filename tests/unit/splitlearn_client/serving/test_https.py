import asyncio
import socket
import ssl
from contextlib import suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from splitlearn_client.serving.https import HTTPSCertificate, exposure, https_certificate
from splitlearn_comm import file_changes
from splitlearn_comm.certificates import CertifiedKey, fingerprint_of
from splitlearn_comm.errors import BadCertificates
from splitlearn_comm.tls import TLSFiles
from support.client_process import break_off
from support.running_split import until
from support.tls import client_of, replace, save, worker_of


def made(files: TLSFiles) -> HTTPSCertificate:
    assert files.certificate is not None
    return HTTPSCertificate(files.certificate, files.key)


async def shown(certificate: HTTPSCertificate, context: ssl.SSLContext | None = None) -> str:
    """The fingerprint of the certificate that a new connection gets."""
    if context is None:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    both_ended = asyncio.Barrier(2)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await reader.read()
        await break_off(writer)
        await both_ended.wait()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = await asyncio.start_server(serve, sock=listening, ssl=certificate.context)
        async with server:
            _, writer = await asyncio.open_connection(*listening.getsockname(), ssl=context)
            der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            await break_off(writer)
            await both_ended.wait()
    return fingerprint_of(der)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_changes, "LOOK_SECONDS", 0.01)


async def test_a_renewed_certificate_is_shown_to_new_connections_and_a_broken_one_to_nobody(
    worker_files: TLSFiles, ca: CertifiedKey, tmp_path: Path
) -> None:
    certificate, renewed = made(worker_files), worker_of(ca)
    first = await shown(certificate)
    with capture_logs() as lines:
        watching = asyncio.create_task(certificate.watch())
        save(tmp_path, ca, renewed, "worker")
        await until(lambda: "certificate was read again" in [line["event"] for line in lines])
        assert await shown(certificate) == renewed.fingerprint != first

        assert worker_files.key is not None
        lines.clear()
        replace(worker_files.key, worker_of(ca).key)
        await until(lambda: bool(lines))
        watching.cancel()
    assert ["old content stays" in line["event"] for line in lines] == [True]
    assert await shown(certificate) == renewed.fingerprint


async def test_callers_that_know_the_authority_trust_it(worker_files: TLSFiles, ca: CertifiedKey) -> None:
    trusting = ssl.create_default_context(cadata=ca.certificate.decode())
    trusting.check_hostname = False
    await shown(made(worker_files), trusting)
    assert made(worker_files).context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_files_that_cannot_be_used_end_the_start(worker_files: TLSFiles, ca: CertifiedKey, tmp_path: Path) -> None:
    assert https_certificate(None, None) is None
    with pytest.raises(BadCertificates, match="given without its certificate; give --ssl-certfile"):
        https_certificate(None, worker_files.key)
    with pytest.raises(BadCertificates, match=r"nothing\.crt"):
        https_certificate(tmp_path / "nothing.crt", worker_files.key)
    with pytest.raises(BadCertificates, match="not a private key"):
        https_certificate(worker_files.certificate, None)
    with pytest.raises(BadCertificates, match="expired"):
        made(save(tmp_path, ca, client_of(ca, is_expired=True), "late"))


def test_key_and_certificate_may_be_one_file(worker_files: TLSFiles, tmp_path: Path) -> None:
    assert worker_files.certificate is not None
    assert worker_files.key is not None
    both = tmp_path / "both.pem"
    both.write_bytes(worker_files.key.read_bytes() + worker_files.certificate.read_bytes())
    assert https_certificate(both, None) is not None


def test_what_is_missing_on_a_network_is_named() -> None:
    both = str(exposure(is_encrypted=False, asks_for_keys=False))
    assert "no TLS: whoever is in between reads prompts and answers" in both
    assert "no keys" in both
    only_keys = str(exposure(is_encrypted=False, asks_for_keys=True))
    assert "prompts, answers and keys" in only_keys
    assert "no keys" not in only_keys
    assert "no TLS" not in str(exposure(is_encrypted=True, asks_for_keys=False))
    assert exposure(is_encrypted=True, asks_for_keys=True) is None
