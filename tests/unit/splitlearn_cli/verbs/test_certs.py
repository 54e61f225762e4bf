import stat
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509

from splitlearn_comm import certificates
from splitlearn_comm.certificates import CertifiedKey, issue, make_authority, names_of
from splitlearn_comm.pinned import pinned_server
from splitlearn_comm.tls import ServerCertificates, TLSFiles, channel_credentials
from support.tls import NOW, EchoClient, echo_server, why_refused

Run = Callable[..., Any]


def pair(folder: Path, name: str) -> CertifiedKey:
    return CertifiedKey((folder / f"{name}.crt").read_bytes(), (folder / f"{name}.key").read_bytes())


def files(folder: Path, name: str) -> TLSFiles:
    return TLSFiles(folder / "ca.crt", folder / f"{name}.crt", folder / f"{name}.key")


def contents(folder: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in folder.iterdir()}


def names(folder: Path, name: str) -> list[str]:
    return names_of(x509.load_pem_x509_certificate((folder / f"{name}.crt").read_bytes()))


def test_without_flags_it_makes_what_this_machine_needs(splitlearn: Run, tmp_path: Path) -> None:
    ran = splitlearn("certs", tmp_path / "tls")

    assert ran.code == 0, ran.err
    made = {f"{name}.{kind}" for name in ("ca", "localhost", "client") for kind in ("crt", "key")}
    assert set(contents(tmp_path / "tls")) == made
    assert names(tmp_path / "tls", "localhost") == ["localhost", "127.0.0.1", "::1"]


def test_keys_can_be_read_by_their_owner_alone(splitlearn: Run, tmp_path: Path) -> None:
    splitlearn("certs", tmp_path)
    splitlearn("certs", tmp_path, "--renew")

    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()}
    assert {mode for name, mode in modes.items() if name.endswith(".key")} == {0o600}
    assert {mode for name, mode in modes.items() if name.endswith(".crt")} == {0o644}


def test_each_worker_and_client_gets_its_own(splitlearn: Run, tmp_path: Path) -> None:
    ran = splitlearn(
        "certs", tmp_path, "--host", "Trunk-1.example,10.0.0.5,2001:DB8::1", "--host", "trunk-2", "--client", "web"
    )

    assert ran.code == 0, ran.err
    assert names(tmp_path, "trunk-1.example") == ["trunk-1.example", "10.0.0.5", "2001:db8::1"]
    assert names(tmp_path, "trunk-2") == ["trunk-2"]
    assert names(tmp_path, "web") == ["web"]
    assert "localhost.crt" not in contents(tmp_path)


def test_the_flags_to_use_are_shown(splitlearn: Run, tmp_path: Path) -> None:
    out = splitlearn("certs", tmp_path, "--host", "trunk-1", "--client", "web").out

    for verb, name in (("trunk ", "trunk-1"), ("client", "web")):
        flags = f"--tls-ca {tmp_path}/ca.crt --tls-cert {tmp_path}/{name}.crt --tls-key {tmp_path}/{name}.key"
        assert f"splitlearn {verb} WEIGHTS {flags}" in out.splitlines()


def test_a_second_run_keeps_everything(splitlearn: Run, tmp_path: Path) -> None:
    asked = ("certs", tmp_path, "--host", "trunk-1,2001:DB8::1", "--client", "web")
    splitlearn(*asked)
    before = contents(tmp_path)

    ran = splitlearn(*asked)

    assert ran.code == 0, ran.err
    assert contents(tmp_path) == before
    assert ran.out.count("kept") == 3


def test_a_further_worker_is_signed_by_the_same_authority(splitlearn: Run, tmp_path: Path) -> None:
    splitlearn("certs", tmp_path)
    before = contents(tmp_path)

    splitlearn("certs", tmp_path, "--host", "trunk-2")

    after = contents(tmp_path)
    assert before.items() <= after.items()
    assert set(after) - set(before) == {"trunk-2.crt", "trunk-2.key"}
    issued, signer = (x509.load_pem_x509_certificate(after[name]) for name in ("trunk-2.crt", "ca.crt"))
    issued.verify_directly_issued_by(signer)


def test_renew_replaces_what_was_asked_for_and_nothing_else(splitlearn: Run, tmp_path: Path) -> None:
    splitlearn("certs", tmp_path, "--host", "trunk-1", "--host", "trunk-2", "--client", "web")
    before = contents(tmp_path)

    ran = splitlearn("certs", tmp_path, "--host", "trunk-1", "--renew", "--days", "3")

    assert ran.code == 0, ran.err
    after = contents(tmp_path)
    assert {name for name in before if before[name] != after[name]} == {"trunk-1.crt", "trunk-1.key"}
    # the tests before this one have taken some minutes since NOW
    assert abs(pair(tmp_path, "trunk-1").not_after - NOW - timedelta(days=3)) < timedelta(hours=12)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("--host", "trunk-1,10.0.0.6"), "for trunk-1, 10.0.0.5"),
        (("--client", "trunk-1"), "for trunk-1, 10.0.0.5"),
    ],
)
def test_a_certificate_for_something_else_is_kept_and_told(
    splitlearn: Run, tmp_path: Path, change: tuple[str, str], reason: str
) -> None:
    splitlearn("certs", tmp_path, "--host", "trunk-1,10.0.0.5")
    before = contents(tmp_path)

    ran = splitlearn("certs", tmp_path, *change)

    assert ran.code == 1
    assert reason in ran.err
    assert "--renew" in ran.err
    assert contents(tmp_path) == before


def test_a_workers_certificate_is_no_clients(splitlearn: Run, tmp_path: Path) -> None:
    splitlearn("certs", tmp_path, "--host", "web")

    ran = splitlearn("certs", tmp_path, "--client", "web")

    assert ran.code == 1
    assert "the certificate is a worker's" in ran.err


def test_an_expired_certificate_is_told_and_renewed_on_demand(splitlearn: Run, tmp_path: Path) -> None:
    splitlearn("certs", tmp_path, "--client", "web")
    late = issue(pair(tmp_path, "ca"), ["web"], is_server=False, now=NOW - timedelta(minutes=30), days=0)
    (tmp_path / "web.crt").write_bytes(late.certificate)
    (tmp_path / "web.key").write_bytes(late.key)

    ran = splitlearn("certs", tmp_path, "--client", "web")
    assert ran.code == 1
    assert "expired" in ran.err
    assert "--renew" in ran.err

    assert splitlearn("certs", tmp_path, "--client", "web", "--renew").code == 0


@pytest.mark.parametrize("missing", ["ca.crt", "ca.key", "web.crt", "web.key"])
def test_half_a_pair_is_not_overwritten(splitlearn: Run, tmp_path: Path, missing: str) -> None:
    splitlearn("certs", tmp_path, "--client", "web")
    (tmp_path / missing).unlink()
    before = contents(tmp_path)

    ran = splitlearn("certs", tmp_path, "--client", "web")

    assert ran.code == 1
    assert f"not {tmp_path / missing}" in ran.err
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "asked", [("--host", "a/b"), ("--host", "../x"), ("--host", ","), ("--client", "-web"), ("--host", "1.2.3.4.5")]
)
def test_what_is_no_name_is_wrong_usage(splitlearn: Run, tmp_path: Path, asked: tuple[str, str]) -> None:
    ran = splitlearn("certs", tmp_path / "tls", *asked)

    assert ran.code == 2
    assert not (tmp_path / "tls").exists()


@pytest.mark.parametrize(
    "asked", [("--host", "ca"), ("--host", "a", "--client", "a"), ("--client", "a", "--client", "a")]
)
def test_no_two_certificates_share_a_file(splitlearn: Run, tmp_path: Path, asked: tuple[str, ...]) -> None:
    ran = splitlearn("certs", tmp_path / "tls", *asked)

    assert ran.code == 2
    assert "a name of its own" in ran.err
    assert not (tmp_path / "tls").exists()


def test_of_two_runs_at_once_one_makes_the_authority(
    splitlearn: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meanwhile(now: datetime, days: int) -> CertifiedKey:
        monkeypatch.setattr(certificates, "make_authority", make_authority)
        assert splitlearn("certs", tmp_path, "--client", "first").code == 0
        return make_authority(now, days)

    monkeypatch.setattr(certificates, "make_authority", meanwhile)
    ran = splitlearn("certs", tmp_path, "--client", "second")

    assert ran.code == 1
    assert f"{tmp_path}/ca.key: File exists" in ran.err
    assert set(contents(tmp_path)) == {"ca.crt", "ca.key", "first.crt", "first.key"}
    assert splitlearn("certs", tmp_path, "--client", "second").code == 0


async def test_a_server_of_these_files_takes_its_clients_and_no_stranger(splitlearn: Run, tmp_path: Path) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    for folder in (here, elsewhere):
        splitlearn("certs", folder)
    ca = pair(here, "ca")
    expired = issue(ca, ["client"], is_server=False, now=NOW - timedelta(minutes=30), days=0)
    other = pair(elsewhere, "client")

    async with echo_server(ServerCertificates(files(here, "localhost")).credentials()) as address:
        async with EchoClient(address, channel_credentials(files(here, "client"))) as client:
            assert await client.echo(b"row") == b"row"
        for stranger in (
            grpc.ssl_channel_credentials(ca.certificate),
            grpc.ssl_channel_credentials(ca.certificate, other.key, other.certificate),
            grpc.ssl_channel_credentials(ca.certificate, expired.key, expired.certificate),
            channel_credentials(files(elsewhere, "client")),
        ):
            assert (await why_refused(address, stranger)).code() == grpc.StatusCode.UNAVAILABLE


async def test_a_running_server_takes_renewed_files(splitlearn: Run, tmp_path: Path) -> None:
    splitlearn("certs", tmp_path)
    async with (
        echo_server(ServerCertificates(files(tmp_path, "localhost")).credentials()) as address,
        EchoClient(address, channel_credentials(files(tmp_path, "client"))) as client,
    ):
        await client.echo()
        before = pair(tmp_path, "localhost").fingerprint

        splitlearn("certs", tmp_path, "--renew")

        renewed = pair(tmp_path, "localhost").fingerprint
        assert renewed != before
        await pinned_server(address, renewed)
        assert await client.echo() == b"hello"
        async with EchoClient(address, channel_credentials(files(tmp_path, "client"))) as new:
            assert await new.echo() == b"hello"
