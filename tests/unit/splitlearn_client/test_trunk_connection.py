"""The link against real servers on loopback that say of themselves what the test wants."""

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from llm_sepweight import Manifest, MissingFileError
from splitlearn.engine import DeviceThread
from splitlearn.errors import BadPlan
from splitlearn.model.plan import SplitPlan, fingerprint
from splitlearn_client.errors import TrunkNotReady
from splitlearn_client.local_parts import LocalParts
from splitlearn_client.settings import ClientSettings
from splitlearn_client.trunk_connection import TrunkConnection
from splitlearn_comm import AsyncGRPCComputeServer, ServiceInfo
from splitlearn_comm.replicas.connecting import connector
from splitlearn_comm.testing import EchoSessionHost
from support.running_split import free_port, until
from support.tiny_models import N_LAYERS


class Says(EchoSessionHost):
    """A trunk as far as it tells about itself."""

    def __init__(self, fingerprint: str, layers: str, n_layers: int = N_LAYERS) -> None:
        super().__init__(fingerprint=fingerprint)
        self._facts = {"layers": layers, "n_layers": str(n_layers)}

    def info(self) -> ServiceInfo:
        return ServiceInfo("trunk", "0", "cpu", self.fingerprint, self._facts)


class Watched:
    """A connection whose watch is running, and the plans for which parts were loaded."""

    def __init__(self, weights: Path, trunk: str, thread: DeviceThread, layers: str | None) -> None:
        self._weights = weights
        self._thread = thread
        self.loaded: list[str] = []
        self.failure: Exception | None = None
        self.faults = 0
        connect = connector(5.0, None)
        self.connection = TrunkConnection(trunk, connect, N_LAYERS, layers, self._load, failed=self._fault)

    def _fault(self) -> None:
        self.faults += 1

    async def _load(self, plan: SplitPlan) -> LocalParts:
        self.loaded.append(plan.layers)
        if self.failure is not None:
            raise self.failure
        return LocalParts.load(ClientSettings(weights=self._weights, device="cpu"), plan, self._thread)

    async def not_ready_reason(self, word: str) -> str:
        """The trouble, once it holds this word."""
        await until(lambda: word in (self.connection.not_ready_reason or ""))
        return self.connection.not_ready_reason or ""


@asynccontextmanager
async def watched(weights: Path, port: int, layers: str | None = None) -> AsyncIterator[Watched]:
    async with AsyncExitStack() as stack:
        thread = stack.enter_context(DeviceThread(1))
        watched = Watched(weights, f"127.0.0.1:{port}", thread, layers)
        watching = asyncio.create_task(watched.connection.watch())
        try:
            yield watched
            assert not watching.done()
        finally:
            watching.cancel()


def name(weights: Path, layers: str) -> str:
    return fingerprint(Manifest.read(weights), SplitPlan.parse(layers, N_LAYERS), "float32")


def serving(host: Says, port: int = 0) -> AsyncGRPCComputeServer:
    return AsyncGRPCComputeServer(session_host=host, port=port)


async def test_before_the_first_answer_there_are_no_parts_to_use(tiny_weights: Path) -> None:
    async with watched(tiny_weights, free_port()) as it:
        with pytest.raises(TrunkNotReady, match="the trunk has not answered yet"):
            _ = it.connection.local_parts


async def test_a_trunk_that_does_not_answer_is_named_with_what_to_check(tiny_weights: Path) -> None:
    port = free_port()
    async with watched(tiny_weights, port) as it:
        trouble = await it.not_ready_reason("no answer")
        assert f"127.0.0.1:{port}" in trouble
        assert "check that a server runs there" in trouble
        with pytest.raises(TrunkNotReady) as refused:
            _ = it.connection.local_parts
        assert str(refused.value) == trouble
        assert it.loaded == []


async def test_the_cut_that_the_trunk_serves_is_taken_over_and_loaded_once(tiny_weights: Path) -> None:
    async with serving(Says(name(tiny_weights, "2-3"), "2-3")) as server, watched(tiny_weights, server.port) as it:
        await until(lambda: it.connection.not_ready_reason is None)
        parts = it.connection.local_parts
        assert parts.plan == SplitPlan(2, 3, N_LAYERS)
        assert parts.fingerprint == name(tiny_weights, "2-3")
        assert it.loaded == ["2-3"]


async def test_a_trunk_with_other_weights_is_named_beside_what_this_client_holds(tiny_weights: Path) -> None:
    other = "tiny weights 0123456789abcdef layers 1-4 of 5 float32"
    async with serving(Says(other, "1-4")) as server, watched(tiny_weights, server.port) as it:
        trouble = await it.not_ready_reason("the trunk serves")
        assert f"[{other}]" in trouble
        assert f"[{name(tiny_weights, '1-4')}]" in trouble
        assert "the same weights, layers and dtype" in trouble


async def test_a_client_with_given_layers_requires_them(tiny_weights: Path) -> None:
    async with (
        serving(Says(name(tiny_weights, "1-4"), "1-4")) as server,
        watched(tiny_weights, server.port, "2-3") as it,
    ):
        trouble = await it.not_ready_reason("the trunk serves")
        assert f"[{name(tiny_weights, '1-4')}]" in trouble
        assert f"[{name(tiny_weights, '2-3')}]" in trouble
        assert it.loaded == ["2-3"]


async def test_a_client_with_the_trunk_s_layers_is_ready(tiny_weights: Path) -> None:
    async with (
        serving(Says(name(tiny_weights, "2-3"), "2-3")) as server,
        watched(tiny_weights, server.port, "2-3") as it,
    ):
        await until(lambda: it.connection.not_ready_reason is None)


async def test_a_trunk_of_another_depth_does_not_decide_the_cut(tiny_weights: Path) -> None:
    async with serving(Says("deeper", "3-9", 12)) as server, watched(tiny_weights, server.port) as it:
        trouble = await it.not_ready_reason("the trunk serves [deeper]")
        assert f"[{name(tiny_weights, '1-4')}]" in trouble


@pytest.mark.parametrize("layers", ["", "all", "3-99"])
async def test_invalid_layers_are_the_reason_and_do_not_end_the_watch(tiny_weights: Path, layers: str) -> None:
    async with serving(Says("odd", layers)) as server, watched(tiny_weights, server.port) as it:
        await it.not_ready_reason("START-END")


async def test_parts_that_cannot_be_loaded_are_the_reason_until_they_can(tiny_weights: Path) -> None:
    async with serving(Says(name(tiny_weights, "1-4"), "1-4")) as server, watched(tiny_weights, server.port) as it:
        it.failure = MissingFileError(Path("end.safetensors"), 100)
        assert "end.safetensors" in await it.not_ready_reason("end.safetensors")
        it.failure = None
        await until(lambda: it.connection.not_ready_reason is None)
        assert it.loaded.count("1-4") >= 2


async def test_a_trunk_that_comes_later_is_found(tiny_weights: Path) -> None:
    port = free_port()
    async with watched(tiny_weights, port) as it:
        await it.not_ready_reason("no answer")
        async with serving(Says(name(tiny_weights, "1-4"), "1-4"), port):
            await until(lambda: it.connection.not_ready_reason is None)


async def test_layers_outside_the_model_are_refused_at_start(tiny_weights: Path) -> None:
    with pytest.raises(BadPlan, match="model of 5 layers"):
        async with watched(tiny_weights, free_port(), "3-99"):
            pytest.fail("this client cannot be started")


async def test_a_device_that_fails_while_loading_is_said_and_tried_again(tiny_weights: Path) -> None:
    async with serving(Says(name(tiny_weights, "1-4"), "1-4")) as server, watched(tiny_weights, server.port) as it:
        it.failure = RuntimeError("out of memory")
        assert "bottom and top cannot be loaded: out of memory" in await it.not_ready_reason("out of memory")
        it.failure = None
        await until(lambda: it.connection.not_ready_reason is None)


async def test_another_cut_is_loaded_once_no_replica_serves_the_present_one(tiny_weights: Path) -> None:
    host = Says(name(tiny_weights, "1-4"), "1-4")
    async with serving(host) as server, watched(tiny_weights, server.port) as it:
        await until(lambda: it.connection.not_ready_reason is None)
        other = Says(name(tiny_weights, "2-3"), "2-3").info()
        for _ in range(3):
            assert (await it.connection._matching_parts(other)).plan.layers == "1-4"
        assert it.loaded == ["1-4"]
        await server.stop()
        await it.not_ready_reason("no answer")
        # one answer may come from one of several replicas that are just being replaced
        assert (await it.connection._matching_parts(host.info())).plan.layers == "1-4"
        assert (await it.connection._matching_parts(other)).plan.layers == "1-4"
        assert (await it.connection._matching_parts(other)).plan.layers == "2-3"


async def test_a_fault_of_the_watch_neither_ends_it_nor_says_anything_of_the_trunk(
    tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(Says(name(tiny_weights, "1-4"), "1-4")) as server, watched(tiny_weights, server.port) as it:
        await until(lambda: it.connection.not_ready_reason is None)
        monkeypatch.setattr("splitlearn_comm.replicas.replica.POLL_SECONDS", 0.01)

        def fail(*_: object) -> None:
            raise OSError(errno.EMFILE, "Too many open files")

        with capture_logs() as logs, monkeypatch.context() as broken:
            broken.setattr(it.connection, "_matching_parts", fail)
            await until(lambda: it.faults > 3)
        assert it.connection.not_ready_reason is None
        # one line for as long as it stays the same fault
        assert [line["log_level"] for line in logs] == ["error"]
        await server.stop()
        await it.not_ready_reason("no answer")


async def test_cores_that_the_system_cannot_name_change_nothing(
    tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> str:
        raise OSError(errno.EMFILE, "Too many open files")

    async with serving(Says(name(tiny_weights, "1-4"), "1-4")) as server, watched(tiny_weights, server.port) as it:
        await until(lambda: it.connection.not_ready_reason is None)
        monkeypatch.setattr("splitlearn_client.local_parts.cores_name", fail)
        it.connection.local_parts.learn_trunk_cores("some")
        assert it.faults == 0


async def test_every_session_is_younger_than_the_one_before_also_when_the_clock_is_set_back(
    tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with watched(tiny_weights, free_port()) as it:
        first = it.connection.next_opening()
        monkeypatch.setattr("splitlearn_client.trunk_connection.time.time", lambda: first - 100)
        opened = [first, *(it.connection.next_opening() for _ in range(100))]
    assert [int(1e6 * each) for each in opened] == sorted({int(1e6 * each) for each in opened})
