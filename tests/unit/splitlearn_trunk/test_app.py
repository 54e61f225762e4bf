"""A worker's life: its first line, its ports, and when it says that it serves."""

import asyncio
import http.client
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from structlog.testing import capture_logs

import splitlearn_trunk.app
from splitlearn.engine import DeviceThread
from splitlearn.errors import EngineFailed
from splitlearn.model.plan import SplitPlan
from splitlearn.runner.interface import Runner
from splitlearn_comm import (
    SESSION_MESSAGE_BYTES,
    AsyncGRPCComputeClient,
    Draining,
    Frame,
    Overloaded,
    PortUnavailable,
    SessionOpening,
)
from splitlearn_trunk.app import serve
from splitlearn_trunk.guard import Guard
from splitlearn_trunk.listening import bound
from splitlearn_trunk.metrics import TrunkMetrics
from splitlearn_trunk.settings import TrunkSettings
from support.addresses import ipv6_works
from support.int4_checkpoints import save_int4_sepweight
from support.running_split import running_trunk, until
from support.tiny_models import N_LAYERS

Lines = list[dict[str, Any]]


def line(lines: Lines, event: str) -> dict[str, Any] | None:
    return next((each for each in lines if each["event"] == event), None)


@asynccontextmanager
async def worker(weights: Path, **settings: Any) -> AsyncIterator[Lines]:
    """The lines of a worker that serves; it is stopped at the end."""
    chosen = TrunkSettings(**{"weights": weights, "port": 0, "metrics_port": 0, "threads": 1, **settings})
    with capture_logs() as lines:
        serving = asyncio.create_task(serve(chosen))
        await until(lambda: serving.done() or line(lines, "serving") is not None)
        if not serving.done():
            yield lines
            signal.raise_signal(signal.SIGTERM)
        await serving


def address_in(lines: Lines) -> str:
    found = line(lines, "serving")
    assert found is not None
    return str(found["address"])


async def test_the_first_line_says_how_clients_reach_it_and_warns_that_only_this_machine_does(
    tiny_weights: Path,
) -> None:
    async with worker(tiny_weights) as lines:
        assert lines[0]["event"] == "starting"
        assert lines[0]["clients"] == f"--trunk {address_in(lines)}"
        assert lines[0]["log_level"] == "warning"
        assert "only clients on this machine" in lines[0]["note"]
        async with AsyncGRPCComputeClient(address_in(lines)) as client:
            assert await client.health()


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_open_to_the_network_the_first_line_names_this_machine(tiny_weights: Path, host: str) -> None:
    if host == "::" and not ipv6_works():
        pytest.skip("this machine has no IPv6")
    guards = {
        "info": Guard(suffix="#TOKEN.FINGERPRINT", note="the line is a secret"),
        "warning": Guard(warning="no encryption"),
    }
    for level, guard in guards.items():
        with bound(host, 0, "--port") as held, capture_logs() as lines:
            port = held.getsockname()[1]
            splitlearn_trunk.app._announce(TrunkSettings(weights=tiny_weights, host=host), held, guard)
        clients = f"--trunk {socket.gethostname()}:{port}{guard.suffix}"
        note = guard.note or guard.warning
        assert lines == [{"event": "starting", "clients": clients, "note": note, "log_level": level}]


@pytest.mark.skipif(not ipv6_works(), reason="this machine has no IPv6")
async def test_addresses_of_ipv6_stand_in_brackets_and_can_be_used_as_they_are(tiny_weights: Path) -> None:
    async with worker(tiny_weights, host="::1") as lines:
        serving = line(lines, "serving")
        assert serving is not None
        assert serving["address"].startswith("[::1]:")
        async with AsyncGRPCComputeClient(serving["address"]) as client:
            assert await client.health()
        assert serving["metrics"].startswith("http://[::1]:")
        assert await asyncio.to_thread(metrics_of, serving["metrics"]) == 200


def metrics_of(url: str) -> int:
    address = url.removeprefix("http://").removesuffix("/metrics")
    connection = http.client.HTTPConnection(address, timeout=20)
    connection.request("GET", "/metrics")
    return connection.getresponse().status


@pytest.mark.parametrize("setting", ["port", "metrics_port", "health_port"])
async def test_a_busy_port_is_told_before_anything_is_loaded(
    tiny_weights: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    loaded: list[object] = []
    monkeypatch.setattr(splitlearn_trunk.app, "_load", loaded.append)
    with socket.create_server(("127.0.0.1", 0)) as taken, capture_logs() as lines:
        port = taken.getsockname()[1]
        flag = f"--{setting.replace('_', '-')}"
        with pytest.raises(PortUnavailable, match=rf"^{flag}: 127\.0\.0\.1:{port} .*--port 0 --metrics-port 0"):
            async with worker(tiny_weights, **{setting: port}):
                pass
    assert (loaded, lines) == ([], [])


async def test_metrics_answer_while_the_worker_still_loads_and_it_says_serving_when_it_does(
    tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    load: Callable[..., Any] = splitlearn_trunk.app._load

    def looks_first(*words: Any) -> Any:
        seen.append(metrics_of(f"http://127.0.0.1:{metrics_port}/metrics"))
        return load(*words)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        metrics_port = free.getsockname()[1]
    monkeypatch.setattr(splitlearn_trunk.app, "_load", looks_first)
    async with worker(tiny_weights, metrics_port=metrics_port) as lines:
        assert seen == [200]
        events = [each["event"] for each in lines]
        assert events.index("starting") < events.index("loaded") < events.index("serving")


async def test_the_health_port_says_not_serving_until_the_layers_are_loaded_and_when_they_are_damaged(
    tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load: Callable[..., Any] = splitlearn_trunk.app._load
    started: asyncio.Future[splitlearn_trunk.app.Trunk] = asyncio.get_running_loop().create_future()
    start = splitlearn_trunk.app.Trunk.start
    may_load = threading.Event()

    def waits(*words: Any) -> Any:
        assert may_load.wait(60)
        return load(*words)

    async def starts(trunk: splitlearn_trunk.app.Trunk) -> None:
        await start(trunk)
        started.set_result(trunk)

    monkeypatch.setattr(splitlearn_trunk.app, "_load", waits)
    monkeypatch.setattr(splitlearn_trunk.app.Trunk, "start", starts)
    chosen = TrunkSettings(weights=tiny_weights, port=0, metrics_port=0, health_port=0, threads=1)
    with capture_logs() as lines:
        serving = asyncio.create_task(serve(chosen))
        try:
            await until(lambda: serving.done() or line(lines, "starting") is not None)
            checks = line(lines, "health checks")
            assert checks is not None
            async with AsyncGRPCComputeClient(checks["address"]) as probe:
                assert not await probe.health()
                may_load.set()
                trunk = await asyncio.wait_for(started, 60)
                assert await probe.health()
                await trunk.mark_damaged("mid.00001 was changed")
                assert not await probe.health()
        finally:
            may_load.set()
            signal.raise_signal(signal.SIGTERM)
            await serving


class Lost:
    """Lets every runner lose its processes when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._tell: list[Callable[[EngineFailed], None]] = []
        monkeypatch.setattr(Runner, "on_failure", lambda _runner, tell: self._tell.append(tell))

    def tell(self) -> None:
        """As a thread of the runner's does."""
        (tell,) = self._tell
        telling = threading.Thread(target=tell, args=(EngineFailed("a process of the engine is gone"),))
        telling.start()
        telling.join()


async def health_of_one_that_loses_its_engine(lines: Lines, lost: Lost) -> list[bool]:
    """What it says while a session is open, which it hands over."""
    healthy: list[bool] = []
    async with AsyncGRPCComputeClient(address_in(lines)) as client:
        fingerprint = (await client.service_info()).fingerprint
        async with client.stream(SessionOpening("test", fingerprint, 8)) as stream:
            await stream.step(Frame(0, torch.zeros(1, 64)))
            async for is_serving in client.watch_health():
                healthy.append(is_serving)
                if not is_serving:
                    break
                # no step runs, and none comes
                lost.tell()
            with pytest.raises(Draining):
                await stream.step(Frame(1, torch.zeros(1, 64)))
    return healthy


async def test_a_worker_whose_engine_fails_says_so_hands_its_sessions_over_and_ends_with_the_error(
    tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = Lost(monkeypatch)
    chosen = TrunkSettings(weights=tiny_weights, port=0, metrics_port=0, threads=1)
    with capture_logs() as lines:
        serving = asyncio.create_task(serve(chosen))
        await until(lambda: serving.done() or line(lines, "serving") is not None)
        assert await health_of_one_that_loses_its_engine(lines, lost) == [True, False]
        with pytest.raises(EngineFailed, match="is gone"):
            await serving
    failed = line(lines, "the engine failed")
    assert failed is not None
    assert (failed["log_level"], failed["sessions"]) == ("error", 1)
    assert line(lines, "stopped") is None


async def test_a_worker_that_is_stopped_takes_no_notice_of_its_engines_end(
    tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = Lost(monkeypatch)
    async with worker(tiny_weights) as lines:
        pass
    lost.tell()
    assert line(lines, "the engine failed") is None
    assert line(lines, "stopped") is not None


async def test_without_its_flag_a_worker_has_no_health_port(tiny_weights: Path) -> None:
    async with worker(tiny_weights) as lines:
        assert line(lines, "health checks") is None


async def test_a_worker_that_still_compares_its_files_stops_when_it_is_told_to(
    tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, over = threading.Event(), threading.Event()

    def compares(*_: Any) -> Iterator[memoryview]:
        begun.set()
        # longer than anybody waits, if nobody says stop
        while not over.wait(0.01):
            yield memoryview(b"")

    monkeypatch.setattr("llm_sepweight.verification.checked_chunks", compares)
    serving = asyncio.create_task(
        serve(TrunkSettings(weights=tiny_weights, port=0, metrics_port=0, threads=1, verify="always"))
    )
    try:
        assert await asyncio.to_thread(begun.wait, 20)
        signal.raise_signal(signal.SIGTERM)
        await asyncio.wait_for(serving, 20)
    finally:
        over.set()


async def test_a_second_signal_hands_open_sessions_over_at_once(tiny_weights: Path) -> None:
    async with (
        worker(tiny_weights, shutdown_timeout=3600.0) as lines,
        asyncio.timeout(60),
        AsyncGRPCComputeClient(address_in(lines)) as client,
    ):
        info = await client.service_info()
        row_1D = torch.ones(1, int(info.attributes["hidden_size"]))
        async with client.stream(SessionOpening("open", info.fingerprint, 8)) as stream:

            async def step_forever() -> None:
                while True:
                    await stream.step(Frame(0, row_1D))

            await stream.step(Frame(0, row_1D))
            signal.raise_signal(signal.SIGTERM)
            await until(lambda: line(lines, "stopping") is not None)
            await stream.step(Frame(1, row_1D))
            signal.raise_signal(signal.SIGTERM)
            with pytest.raises(Draining):
                await step_forever()


@pytest.mark.parametrize(("chosen", "taken"), [(None, 2), (3, 3)])
async def test_no_more_streams_are_taken_than_may_stop_in_a_message_within_a_quarter_of_the_free_memory(
    tiny_weights: Path, monkeypatch: pytest.MonkeyPatch, chosen: int | None, taken: int
) -> None:
    monkeypatch.setattr(splitlearn_trunk.app, "free_bytes", lambda _device: 11 * SESSION_MESSAGE_BYTES)
    async with (
        running_trunk(tiny_weights, max_streams=chosen, kv_cache_memory_bytes="64MiB") as trunk,
        AsyncExitStack() as stack,
    ):
        hidden = trunk.trunk.engine.part.hidden_size
        for n_before in range(taken + 1):
            opening = SessionOpening(str(n_before), trunk.fingerprint, 8)
            stream = await stack.enter_async_context(trunk.client.stream(opening))
            if n_before == taken:
                with pytest.raises(Overloaded, match=f"the limit is {taken}"):
                    await stream.step(Frame(0, torch.ones(1, hidden)))
            else:
                await stream.step(Frame(0, torch.ones(1, hidden)))


def test_weights_that_the_files_have_in_4_bits_are_not_rounded_again(tmp_path: Path) -> None:
    folder, weights = save_int4_sepweight(tmp_path)
    settings, plan = TrunkSettings(weights=folder, device="cpu", quantization="int4"), SplitPlan(2, 3, N_LAYERS)
    with DeviceThread(1) as thread:
        part = splitlearn_trunk.app._load(settings, plan, thread, TrunkMetrics("tiny")).part
    up = part.get_submodule("model.model.layers.0.mlp.up_proj").weight
    assert torch.equal(up, weights["model.layers.2.mlp.up_proj.weight"].bfloat16())
