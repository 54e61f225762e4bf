"""mTLS between the client service, the stages of a chain and strangers, with certificates of one local authority."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from splitlearn_comm import (
    AsyncGRPCComputeClient,
    CommError,
    Frame,
    RemoteFailure,
    Reply,
    ServiceInfo,
    Unreachable,
)
from splitlearn_comm.certificates import CertifiedKey, issue
from splitlearn_comm.errors import BadCertificates
from splitlearn_comm.tls import TLSFiles
from splitlearn_trunk.endpoint import TrunkServicer, TrunkSession
from support.running_split import running_client, running_split, running_trunk, until
from support.tls import NOW, authority, client_of, replace, save


def flags(files: TLSFiles) -> dict[str, Any]:
    return {"tls_ca": files.ca, "tls_cert": files.certificate, "tls_key": files.key}


async def test_a_chain_with_certificates_says_what_one_trunk_says(
    tiny_weights: Path, tmp_path: Path, ca: CertifiedKey, client_files: TLSFiles
) -> None:
    by_name = issue(ca, ["localhost"], is_server=True, now=NOW, days=30)
    worker_files = save(tmp_path, ca, by_name, "named")
    ask: dict[str, Any] = {"prompt": [5, 6, 7], "max_tokens": 10}
    async with running_split(tiny_weights) as split:
        expected = (await split.client.complete(**ask)).json()["choices"]
    async with AsyncExitStack() as stack:
        second = await stack.enter_async_context(running_trunk(tiny_weights, "2-4", **flags(worker_files)))
        # a name that is resolved: the certificate names it, and not the address
        beyond = f"localhost:{second.trunk.server.port}"
        first = await stack.enter_async_context(running_trunk(tiny_weights, "1-2", next=beyond, **flags(worker_files)))
        trunk = f"localhost:{first.trunk.server.port}"
        client = await stack.enter_async_context(running_client(tiny_weights, trunk, **flags(client_files)))
        await client.ready()
        assert (await client.complete(**ask)).json()["choices"] == expected


async def test_strangers_learn_nothing_from_a_worker_with_certificates(
    tiny_weights: Path, tmp_path: Path, worker_files: TLSFiles
) -> None:
    (tmp_path / "other").mkdir()
    elsewhere = authority()
    stranger = save(tmp_path / "other", elsewhere, client_of(elsewhere), "stranger")
    # it even knows the worker's authority
    stranger = TLSFiles(worker_files.ca, stranger.certificate, stranger.key)
    async with running_trunk(tiny_weights, **flags(worker_files)) as trunk:
        async with AsyncGRPCComputeClient(trunk.address) as plain:
            with pytest.raises(Unreachable, match="both ends use TLS or neither"):
                await plain.service_info()
        async with running_client(tiny_weights, trunk.address, **flags(stranger)) as client:
            await until(lambda: "no answer from" in (client.service.connection.not_ready_reason or ""))
        assert trunk.value("sessions_total") == 0


async def test_renewed_certificates_are_used_without_a_restart(
    tiny_weights: Path, tmp_path: Path, ca: CertifiedKey, worker_files: TLSFiles
) -> None:
    (tmp_path / "client").mkdir()
    # of another authority, as before an exchange of all certificates
    files = save(tmp_path / "client", ca, client_of(authority()), "client")
    async with (
        running_trunk(tiny_weights, **flags(worker_files)) as trunk,
        running_client(tiny_weights, trunk.address, **flags(files)) as client,
    ):
        await until(lambda: "no answer from" in (client.service.connection.not_ready_reason or ""))
        renewed = client_of(ca)
        assert files.certificate is not None
        assert files.key is not None
        replace(files.certificate, renewed.certificate)
        replace(files.key, renewed.key)
        await client.ready()


async def test_a_target_of_grpc_is_reached_with_certificates(
    tiny_weights: Path, worker_files: TLSFiles, client_files: TLSFiles
) -> None:
    async with (
        running_trunk(tiny_weights, **flags(worker_files)) as trunk,
        running_client(tiny_weights, f"dns:///{trunk.address}", **flags(client_files)) as client,
    ):
        await client.ready()


@pytest.mark.parametrize("error", [Unreachable, RemoteFailure])
async def test_a_poll_that_fails_cancels_no_session(
    tiny_weights: Path,
    worker_files: TLSFiles,
    client_files: TLSFiles,
    error: type[CommError],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with (
        running_trunk(tiny_weights, **flags(worker_files)) as trunk,
        running_client(tiny_weights, trunk.address, **flags(client_files)) as client,
    ):
        await client.ready()
        step, info = TrunkSession.step, TrunkServicer.info
        begun, failed = asyncio.Event(), asyncio.Event()

        async def after_the_poll(session: TrunkSession, frame: Frame) -> Reply:
            if frame.position > 5:
                begun.set()
                await failed.wait()
            return await step(session, frame)

        def fail_once(servicer: TrunkServicer) -> ServiceInfo:
            if not begun.is_set() or failed.is_set():
                return info(servicer)
            failed.set()
            raise error("no answer this time")

        with monkeypatch.context() as failing:
            failing.setattr(TrunkSession, "step", after_the_poll)
            failing.setattr(TrunkServicer, "info", fail_once)
            response = await client.complete(prompt=[5, 6, 7], max_tokens=20)
        assert response.status_code == 200, response.text
        assert response.json()["splitlearn"]["failovers"] == []


async def test_files_that_cannot_be_used_end_the_start_before_anything_is_loaded(
    tiny_weights: Path, tmp_path: Path, worker_files: TLSFiles
) -> None:
    wrong = {**flags(worker_files), "tls_key": tmp_path / "nothing.key"}
    with pytest.raises(BadCertificates, match=r"nothing\.key"):
        async with running_trunk(tiny_weights, **wrong):
            pytest.fail("this worker cannot be started")
    with pytest.raises(BadCertificates, match=r"nothing\.key"):
        async with running_client(tiny_weights, "127.0.0.1:1", **wrong):
            pytest.fail("this client cannot be started")
