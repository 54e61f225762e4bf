"""Composition root of the trunk worker: builds every object once, runs until SIGTERM or Ctrl-C, takes all down."""

import asyncio
import gc
import os
import signal
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import structlog
import uvloop
from prometheus_client import start_http_server

from llm_sepweight import Manifest, verify
from splitlearn.engine import DeviceThread, Engine, Limits, cores_name
from splitlearn.kv.budget import free_bytes
from splitlearn.loading import load_part, resolve_device
from splitlearn.packing import pack
from splitlearn.part import Part
from splitlearn.plan import SplitPlan, fingerprint
from splitlearn_comm import (
    SESSION_MESSAGE_BYTES,
    AsyncGRPCComputeServer,
    PortUnavailable,
    ServerLimits,
    ServiceInfo,
)
from trunk_service.endpoint import TrunkHost
from trunk_service.metrics import TrunkMetrics
from trunk_service.settings import TrunkSettings

log = structlog.get_logger()

# Rows of prompts that wait for room or are being run, for 256 sessions that send chunks.
_BYTES_IN_FLIGHT = 2**28


def run(settings: TrunkSettings) -> None:
    """Serves until a signal; raises SepweightError, SplitError or CommError if it cannot start."""
    uvloop.run(serve(settings))


@dataclass(frozen=True)
class Trunk:
    """Everything that one worker consists of; `build` owns the wiring, its exit stack the end."""

    server: AsyncGRPCComputeServer
    engine: Engine
    thread: DeviceThread
    metrics: TrunkMetrics
    info: ServiceInfo


async def serve(settings: TrunkSettings) -> None:
    """The whole life of one worker."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    async with AsyncExitStack() as stack:
        trunk = await build(settings, stack)
        metrics_address = _export(trunk.metrics, settings, stack)
        # what was loaded stays: later collections need not look at it, and take milliseconds
        gc.collect()
        gc.freeze()
        port = await trunk.server.start()
        log.info(
            "serving",
            address=f"{settings.host}:{port}",
            metrics=f"http://{metrics_address}/metrics",
            fingerprint=trunk.info.fingerprint,
            device=trunk.info.device,
        )
        await stop.wait()
        log.info("stopping", grace=settings.grace)
        await trunk.server.stop(settings.grace)
    log.info("stopped")


async def build(settings: TrunkSettings, stack: AsyncExitStack) -> Trunk:
    """Loads the layers and wires the worker; the server is not started yet."""
    thread = stack.enter_context(DeviceThread(settings.threads))
    began = time.perf_counter()
    manifest = Manifest.read(settings.weights)
    plan = SplitPlan.parse(settings.layers, manifest.n_layers)
    if settings.verify:
        verify(settings.weights, plan.trunk)
    metrics = TrunkMetrics()
    engine, _ = await thread.run(_load, settings, plan, thread, metrics)
    log.info(
        "loaded",
        layers=plan.layers,
        of=plan.n_layers,
        seconds=round(time.perf_counter() - began, 2),
        kv_rows=engine.pages.total * engine.pages.page_rows,
        in_batches=engine.runs_in_batches,
    )
    metrics.watch(engine)
    info = _service_info(settings, manifest, plan, engine.part)
    host = TrunkHost(engine, info, metrics)
    expiring = asyncio.create_task(host.expire(settings.idle_timeout))
    stack.callback(expiring.cancel)
    server = AsyncGRPCComputeServer(
        host=settings.host,
        port=settings.port,
        session_host=host,
        observer=metrics,
        limits=ServerLimits(
            message_bytes=SESSION_MESSAGE_BYTES, streams=settings.max_streams, bytes_in_flight=_BYTES_IN_FLIGHT
        ),
    )
    return Trunk(server, engine, thread, metrics, info)


def _export(metrics: TrunkMetrics, settings: TrunkSettings, stack: AsyncExitStack) -> str:
    try:
        exporter, _thread = start_http_server(settings.metrics_port, settings.host, metrics.registry)
    except OSError as error:
        raise PortUnavailable(
            f"/metrics cannot be served on {settings.host}:{settings.metrics_port} ({os.strerror(error.errno or 0)}); "
            "choose another --metrics-port, 0 picks a free one"
        ) from error
    stack.callback(exporter.server_close)
    stack.callback(exporter.shutdown)
    return f"{settings.host}:{exporter.server_port}"


def _load(settings: TrunkSettings, plan: SplitPlan, thread: DeviceThread, metrics: TrunkMetrics) -> Engine:
    part = load_part(Path(settings.weights), plan.trunk, device=resolve_device(settings.device), dtype=settings.dtype)
    pack(part, settings.quantization)
    limits = Limits(
        step_rows=settings.step_rows,
        sessions=settings.max_sessions,
        waiting=settings.max_waiting,
        kv_bytes=settings.kv_memory or free_bytes(part.device) // 2,
        kept=Limits.kept if settings.prefix_reuse else 0,
    )
    return Engine(part, thread, limits, metrics)


def _service_info(settings: TrunkSettings, manifest: Manifest, plan: SplitPlan, part: Part) -> ServiceInfo:
    dtype = str(part.dtype).removeprefix("torch.")
    cores = cores_name() if part.device.type == "cpu" else None
    return ServiceInfo(
        service_name="splitlearn-trunk",
        version=version("splitlearn"),
        device=str(part.device),
        fingerprint=fingerprint(manifest, plan, dtype),
        attributes={
            "model": manifest.model_name,
            "layers": plan.layers,
            "n_layers": str(plan.n_layers),
            "dtype": dtype,
            "quantization": settings.quantization,
            "hidden_size": str(part.hidden_size),
            **({"cores": cores} if cores else {}),
        },
    )
