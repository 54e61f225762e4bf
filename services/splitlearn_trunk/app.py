"""Composition root of the trunk worker: builds every object once, and runs until SIGTERM or Ctrl-C."""

import asyncio
import gc
import signal
import socket
import time
from collections.abc import Coroutine
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import structlog
import torch

from llm_sepweight import Manifest, SepweightError
from splitlearn.backends.cpu.packing import pack, takes_int4
from splitlearn.backends.memory import free_bytes
from splitlearn.build import build_engine
from splitlearn.checkpoints.load import load_part, resolve_device, unfilled_part
from splitlearn.engine import DeviceThread, Engine, Limits, cores_name
from splitlearn.engine.speculation import MAX_SESSION_ROWS, SPECULATION
from splitlearn.errors import EngineFailed, SplitError, UnsupportedModel
from splitlearn.hub.model import Bar, no_bar
from splitlearn.hub.weights import Weights, fetched, opened
from splitlearn.model.plan import SplitPlan, fingerprint
from splitlearn.runner.select import runner_for, vllm_runner_for
from splitlearn_comm import (
    SESSION_MESSAGE_BYTES,
    AsyncGRPCComputeServer,
    HealthState,
    ServerLimits,
    ServiceInfo,
    event_loop,
)
from splitlearn_comm.access import access_from
from splitlearn_comm.addresses import join_address
from splitlearn_comm.replicas.connecting import connection_to
from splitlearn_comm.replicas.replica_set import Connect
from splitlearn_comm.tracing import tracer_to
from splitlearn_trunk.chain import ChainServicer
from splitlearn_trunk.endpoint import TrunkServicer
from splitlearn_trunk.exporter import exported
from splitlearn_trunk.guard import Guard, guarded
from splitlearn_trunk.health_port import reported
from splitlearn_trunk.listening import address_of, bound
from splitlearn_trunk.metrics import TrunkMetrics
from splitlearn_trunk.next_stage import NextStage
from splitlearn_trunk.open_files import allow_more_files
from splitlearn_trunk.settings import TrunkSettings
from splitlearn_trunk.verification import WeightsCheck

log = structlog.get_logger()

# After the shutdown timeout: how long running steps may take to end, and clients to send the next frame.
HAND_OVER_SECONDS = 3.0
LAST_STATUS_SECONDS = 1.0
# Bytes of rows that wait or run: 256 sessions with a 1 MiB chunk each.
_BYTES_IN_FLIGHT = 2**28

_T = TypeVar("_T")


def run(settings: TrunkSettings, bar: Bar = no_bar) -> None:
    """Serves until a signal. Raises SepweightError, SplitError or CommError if it cannot start, or go on.

    Args:
        bar: shows the progress of fetching layers.
    """
    allow_more_files()
    event_loop.run(serve(settings, bar))


@dataclass(frozen=True)
class Trunk:
    """The objects of one worker. `build` creates them; its exit stack owns their end."""

    server: AsyncGRPCComputeServer
    servicer: TrunkServicer
    engine: Engine
    thread: DeviceThread
    metrics: TrunkMetrics
    info: ServiceInfo
    next_stage: NextStage | None = None

    async def start(self) -> None:
        """Starts to serve. Raises PortUnavailable."""
        await self.server.start()
        await self.publish()

    async def publish(self) -> None:
        """Health checks succeed unless the weights are known to be damaged, the worker drains, or the next stage of the
        chain takes no sessions."""
        is_next_ready = True
        if self.next_stage is not None:
            is_next_ready = self.next_stage.is_ready
            self.metrics.next_replicas(self.next_stage.replicas.states())
        await self.server.set_serving(self.servicer.is_accepting and is_next_ready)

    async def publish_when(self, changed: asyncio.Event) -> None:
        """Publishes after each change, until cancelled."""
        while True:
            await changed.wait()
            changed.clear()
            await self.publish()

    async def stop(self, shutdown_timeout: float, hurry: asyncio.Event | None = None) -> None:
        """Drains and stops: health checks fail, new sessions are refused, open ones get `shutdown_timeout` seconds to
        end, and then their next frames are refused, so that their clients go on with another worker.

        Args:
            hurry: ends the waiting for open sessions when it is set.
        """
        self.servicer.drain()
        await self.publish()
        if not await self._drained(shutdown_timeout, hurry):
            self.servicer.hand_over()
            if not await self._drained(HAND_OVER_SECONDS):
                self.servicer.cut_off()
        # the status of a stream is sent after its session was closed
        await self.server.stop(LAST_STATUS_SECONDS)

    async def _drained(self, seconds: float, hurry: asyncio.Event | None = None) -> bool:
        """Waits until no session is open, the seconds are over, or `hurry` is set. True if none is open."""
        waits: list[asyncio.Task[Any]] = [asyncio.create_task(self.servicer.drained())]
        if hurry is not None:
            waits.append(asyncio.create_task(hurry.wait()))
        done, _ = await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for waiting in waits:
            waiting.cancel()
        return waits[0] in done

    async def mark_damaged(self, damage: str) -> None:
        """Stops serving for good; health checks fail from here on."""
        self.servicer.mark_damaged(damage)
        await self.publish()


async def serve(settings: TrunkSettings, bar: Bar = no_bar) -> None:
    """The whole life of one worker. The first signal drains it, a second one hands its sessions over at once.

    Raises:
        EngineFailed: a process that computes the layers is gone. The worker has then ended as after a signal.
    """
    stop, hurry = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, lambda: (hurry if stop.is_set() else stop).set())
    # errors in the command line or the directory come before any other log line
    weights = await _unless(stop, opened(settings.weights, settings.cache_dir))
    if weights is None:
        return
    settings = settings.model_copy(update={"weights": weights.directory})
    manifest = Manifest.read(settings.weights)
    plan = SplitPlan.parse(settings.layers, manifest.n_layers)
    async with AsyncExitStack() as stack:
        held = stack.enter_context(bound(settings.host, settings.port, "--port"))
        listening = stack.enter_context(bound(settings.host, settings.metrics_port, "--metrics-port"))
        settings = settings.model_copy(update={"port": address_of(held)[1]})
        metrics_address = join_address(settings.host, address_of(listening)[1])
        health = HealthState()
        await stack.enter_async_context(reported(health, settings.host, settings.health_port))
        guard = guarded(settings)
        _announce(settings, held, guard)
        metrics = TrunkMetrics(manifest.model_name)
        stack.enter_context(exported(metrics.registry, listening))
        if await _unless(stop, _fetch(weights, plan, bar)) is None:
            return
        trunk = await _unless(stop, build(settings, stack, metrics, health, guard))
        if trunk is None:
            return
        # loaded objects live to the end: without them, later collections take milliseconds
        gc.collect()
        gc.freeze()
        held.close()
        await trunk.start()
        log.info(
            "serving",
            address=join_address(settings.host, trunk.server.port),
            metrics=f"http://{metrics_address}/metrics",
            fingerprint=trunk.info.fingerprint,
            device=trunk.info.device,
        )
        try:
            await _unless(stop, trunk.engine.failed())
        except EngineFailed as error:
            log.error("the engine failed", error=str(error), sessions=trunk.servicer.n_sessions)
            # nothing is computed any more: clients go on elsewhere at once
            await trunk.stop(0.0)
            raise
        log.info("stopping", sessions=trunk.servicer.n_sessions, shutdown_timeout=settings.shutdown_timeout)
        await trunk.stop(settings.shutdown_timeout, hurry)
    log.info("stopped")


async def _fetch(weights: Weights, plan: SplitPlan, bar: Bar) -> bool:
    """Fetches the layers that are not here, of a model that was given by its name. True at the end."""
    if missing := weights.missing([plan.trunk]):
        log.info("fetching", layers=plan.layers, files=len(missing), directory=str(weights.directory))
        began = time.perf_counter()
        await fetched(weights, [plan.trunk], bar)
        log.info("fetched", layers=plan.layers, seconds=round(time.perf_counter() - began, 2))
    return True


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, _T]) -> _T | None:
    """What the work returns, or None if a signal comes first: fetching, comparing and loading files take minutes."""
    task, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if task.done():
        return task.result()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    return None


async def build(
    settings: TrunkSettings,
    stack: AsyncExitStack,
    metrics: TrunkMetrics | None = None,
    health: HealthState | None = None,
    guard: Guard | None = None,
) -> Trunk:
    """Loads the layers, and creates the worker's objects; does not start the server."""
    guard = guard or guarded(settings)
    following = _connection_to_next(settings)
    thread = stack.enter_context(DeviceThread(settings.threads))
    manifest = Manifest.read(settings.weights)
    plan = SplitPlan.parse(settings.layers, manifest.n_layers)
    metrics = metrics or TrunkMetrics(manifest.model_name)
    check = WeightsCheck(settings, plan, metrics, stack)
    await check.begin()
    began = time.perf_counter()
    try:
        engine, _ = await thread.run(_load, settings, plan, thread, metrics)
    except (SepweightError, SplitError):
        await check.explain()
        raise
    stack.callback(engine.close_runner)
    log.info(
        "loaded",
        layers=plan.layers,
        of=plan.n_layers,
        seconds=round(time.perf_counter() - began, 2),
        kv_cache_rows=engine.pages.total * engine.pages.page_size,
        max_session_rows=engine.max_session_rows,
        batched=engine.is_batched,
    )
    metrics.watch(engine)
    info = _service_info(settings, manifest, plan, engine)
    tracer = tracer_to(settings.otlp_traces_endpoint, "splitlearn-trunk")
    stack.push_async_callback(asyncio.to_thread, tracer.close)
    servicer = TrunkServicer(engine, info, metrics, tracer)
    readiness = asyncio.Event()
    next_stage = None
    if following is not None:
        (addresses, connect), dtype = following, info.attributes["dtype"]
        next_stage = NextStage(addresses, manifest, plan, dtype, connect, readiness.set)
    expiring = asyncio.create_task(servicer.expire(settings.session_idle_timeout))
    stack.callback(expiring.cancel)
    server = AsyncGRPCComputeServer(
        host=settings.host,
        port=settings.port,
        session_host=servicer if next_stage is None else ChainServicer(servicer, next_stage, metrics),
        observer=metrics,
        limits=_server_limits(settings),
        credentials=guard.credentials,
        tokens=guard.tokens,
        health=health,
    )
    trunk = Trunk(server, servicer, engine, thread, metrics, info, next_stage)
    if next_stage is not None:
        for work in (next_stage.replicas.run(), trunk.publish_when(readiness)):
            stack.push_async_callback(_end, asyncio.create_task(work))
    check.watch(trunk.mark_damaged)
    return trunk


async def _end(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.wait({task})


def _server_limits(settings: TrunkSettings) -> ServerLimits:
    """To be asked for after loading. Of what is free then keys and values take half, where they are in this memory."""
    quarter = free_bytes(torch.device("cpu")) // 4
    return ServerLimits(
        message_bytes=SESSION_MESSAGE_BYTES,
        streams=settings.max_streams or ServerLimits.streams_within(quarter, SESSION_MESSAGE_BYTES),
        bytes_in_flight=_BYTES_IN_FLIGHT,
    )


def _announce(settings: TrunkSettings, held: socket.socket, guard: Guard) -> None:
    """Logs the address for clients, who can reach it, and what they need to use it."""
    address, port = address_of(held)
    name = socket.gethostname() if address.is_unspecified else settings.host
    clients = f"--trunk {join_address(name, port)}{guard.suffix}"
    if address.is_loopback:
        note = "only clients on this machine can connect; --host 0.0.0.0 opens it to the network"
        log.warning("starting", clients=clients, note=note)
    elif guard.warning is not None:
        log.warning("starting", clients=clients, note=guard.warning)
    elif guard.note is not None:
        log.info("starting", clients=clients, note=guard.note)
    else:
        log.info("starting", clients=clients)


def _connection_to_next(settings: TrunkSettings) -> tuple[str, Connect] | None:
    """Where the workers of the next stage are, and what makes their clients; None without a next stage."""
    if settings.next is None:
        return None
    access = access_from(settings, settings.next_token, settings.next_token_file, is_insecure=settings.insecure)
    return connection_to(settings.next, settings.next_timeout, access)


def _load(settings: TrunkSettings, plan: SplitPlan, thread: DeviceThread, metrics: TrunkMetrics) -> Engine:
    if settings.engine == "vllm":
        try:
            return _load_into_vllm(settings, plan, thread, metrics)
        except UnsupportedModel as error:
            log.warning("vLLM cannot serve these layers; the native engine does", reason=str(error))
    weights, where, keeps = Path(settings.weights), resolve_device(settings.device), takes_int4(settings.quantization)
    part = load_part(weights, plan.trunk, device=where, dtype=settings.dtype, keep_int4=keeps)
    pack(part, settings.quantization)
    runner = partial(runner_for, kv_cache_dtype=settings.kv_cache_dtype)
    return build_engine(part, thread, _limits(settings, free_bytes(part.device) // 2), metrics, runner)


def _load_into_vllm(settings: TrunkSettings, plan: SplitPlan, thread: DeviceThread, metrics: TrunkMetrics) -> Engine:
    part = unfilled_part(settings.weights, plan.trunk, settings.dtype)
    limits = _limits(settings, None)
    runner = partial(
        vllm_runner_for,
        directory=settings.weights,
        device=settings.device,
        # prompts, and a row of each session that decodes
        max_rows=limits.max_num_batched_tokens + limits.max_num_seqs,
        max_requests=limits.max_num_seqs,
        n_workers=settings.tensor_parallel,
    )
    return build_engine(part, thread, limits, metrics, runner)


def _limits(settings: TrunkSettings, kv_bytes: int | None) -> Limits:
    """The engine's bounds; `kv_bytes` is the memory for keys and values if the settings name none."""
    return Limits(
        max_num_batched_tokens=settings.max_num_batched_tokens,
        max_num_seqs=settings.max_num_seqs,
        max_waiting=settings.max_waiting,
        kv_cache_memory_bytes=settings.kv_cache_memory_bytes or kv_bytes,
        max_cached_prefixes=Limits.max_cached_prefixes if settings.enable_prefix_caching else 0,
        queue_timeout=settings.queue_timeout,
    )


def _service_info(settings: TrunkSettings, manifest: Manifest, plan: SplitPlan, engine: Engine) -> ServiceInfo:
    part = engine.part
    dtype = str(part.dtype).removeprefix("torch.")
    cores = cores_name() if engine.device.type == "cpu" else None
    return ServiceInfo(
        service_name="splitlearn-trunk",
        version=version("splitlearn"),
        device=str(engine.device),
        fingerprint=fingerprint(manifest, plan, dtype),
        attributes={
            "model": manifest.model_name,
            "layers": plan.layers,
            "n_layers": str(plan.n_layers),
            "dtype": dtype,
            "quantization": settings.quantization,
            "hidden_size": str(part.hidden_size),
            SPECULATION: engine.speculation,
            MAX_SESSION_ROWS: str(engine.max_session_rows),
            **({"cores": cores} if cores else {}),
        },
    )
