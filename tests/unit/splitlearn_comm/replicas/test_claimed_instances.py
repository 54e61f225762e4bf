"""Workers that answer with another worker's id, as a hostile one may, or one that was restored from a snapshot."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from uuid import UUID

import pytest

from splitlearn_comm import AsyncGRPCComputeServer, RemoteFailure, ServiceInfo
from splitlearn_comm import service as service_module
from splitlearn_comm.replicas.health import FAULTS_TO_EJECT, ReplicaState
from splitlearn_comm.testing import EchoSessionHost
from support.running_split import until
from support.watched_replicas import state_of, watched


class Claimer(EchoSessionHost):
    def info(self) -> ServiceInfo:
        return replace(super().info(), service_name="claimer")


async def refuse_claimer(info: ServiceInfo) -> str | None:
    return "another model" if info.service_name == "claimer" else None


@asynccontextmanager
async def one_id(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[AsyncGRPCComputeServer, int]]:
    """A worker, and the port of one that claims its id."""
    monkeypatch.setattr(service_module.uuid, "uuid4", lambda: UUID(int=1))
    async with (
        AsyncGRPCComputeServer(session_host=EchoSessionHost()) as honest,
        AsyncGRPCComputeServer(session_host=Claimer()) as claimer,
    ):
        yield honest, claimer.port


async def test_a_worker_with_another_model_hides_nobody_whose_id_it_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        one_id(monkeypatch) as (honest, claimer),
        watched(claimer, honest.port, judge=refuse_claimer) as replicas,
    ):
        await until(lambda: state_of(replicas, claimer) is ReplicaState.INCOMPATIBLE)
        await until(lambda: replicas.usable_addresses() == {f"127.0.0.1:{honest.port}"})
        await honest.stop()
        await until(lambda: state_of(replicas, honest.port) is ReplicaState.UNREACHABLE)
        # the claimed one may come back, whatever the claimer says
        assert replicas.may_recover
        async with AsyncGRPCComputeServer(session_host=EchoSessionHost(), port=honest.port):
            picked = await replicas.picked((), 60.0)
            assert picked is not None
            assert picked.address == f"127.0.0.1:{honest.port}"


async def test_a_worker_that_fails_sessions_makes_place_for_the_one_whose_id_it_claims(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with one_id(monkeypatch) as (honest, claimer), watched(claimer, honest.port) as replicas:
        await until(lambda: state_of(replicas, honest.port) is ReplicaState.READY)
        await until(lambda: replicas.usable_addresses() == {f"127.0.0.1:{claimer}"})
        picked = replicas.pick()
        assert picked is not None
        for _ in range(FAULTS_TO_EJECT):
            picked.faulted(RemoteFailure("garbage"))
        assert replicas.usable_addresses() == {f"127.0.0.1:{honest.port}"}
