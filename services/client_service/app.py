"""Composition root of the client service: builds every object once, runs until SIGTERM or Ctrl-C, takes all down."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path

import structlog
import uvicorn
import uvloop
from fastapi import FastAPI
from transformers import PretrainedConfig

from client_service.api import error_replies
from client_service.api.routes import Service, router
from client_service.block_names import BlockNames
from client_service.ends import Ends
from client_service.generation import Generator
from client_service.generation_config import GenerationDefaults, read_generation_config
from client_service.metrics import ClientMetrics
from client_service.settings import ClientSettings
from client_service.tokenizer import TextCodec
from client_service.trunk_link import TrunkLink
from llm_sepweight import Manifest
from splitlearn.anatomy import config_from_dict
from splitlearn.engine import DeviceThread, Limits
from splitlearn.plan import SplitPlan
from splitlearn_comm import AsyncGRPCComputeClient, PortUnavailable

log = structlog.get_logger()


def run(settings: ClientSettings) -> None:
    """Serves until a signal; raises SepweightError, SplitError or OSError if it cannot start."""
    uvloop.run(serve(settings))


async def serve(settings: ClientSettings) -> None:
    """The whole life of one client service."""
    async with AsyncExitStack() as stack:
        # before anything is loaded: a busy port should not be news minutes later
        listening = stack.enter_context(_listen(settings))
        service = await build(settings, stack)
        host, port = listening.getsockname()[:2]
        config = uvicorn.Config(
            application(service),
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=max(1, round(settings.grace)),
        )
        server = _Server(config)
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, server.stop)
        log.info("serving", address=f"{host}:{port}", page=f"http://{host}:{port}/", model=service.model)
        await server.serve(sockets=[listening])
    log.info("stopped")


def _listen(settings: ClientSettings) -> socket.socket:
    try:
        return socket.create_server((settings.host, settings.port))
    except OSError as error:
        raise PortUnavailable(
            f"the API cannot be served on {settings.host}:{settings.port} ({os.strerror(error.errno or 0)}); "
            "choose another --port, 0 picks a free one"
        ) from error


async def build(settings: ClientSettings, stack: AsyncExitStack) -> Service:
    """Every object of the service; `stack` takes them down again."""
    manifest = Manifest.read(settings.weights)
    config = config_from_dict(manifest.config)
    codec = TextCodec(settings.weights, config, settings.chat_template_content_format)
    stack.callback(codec.close)
    defaults = GenerationDefaults.read(settings.weights, settings.generation_config)
    metrics = ClientMetrics()
    thread = stack.enter_context(DeviceThread(settings.threads))

    async def load_ends(plan: SplitPlan) -> Ends:
        def load() -> Ends:
            return Ends.load(settings, plan, thread)

        ends, timing = await thread.run(load)
        codec.context = ends.bottom.part.context_length
        log.info("loaded", bottom=str(plan.bottom), top=str(plan.top), seconds=round(timing.compute_seconds, 2))
        return ends

    client = await stack.enter_async_context(AsyncGRPCComputeClient(settings.trunk, timeout=settings.trunk_timeout))
    link = TrunkLink(client, manifest.n_layers, settings.layers, load_ends, settings.codec)
    watching = asyncio.create_task(link.watch())
    stack.push_async_callback(_end, watching)
    watching.add_done_callback(_fatal)
    names = BlockNames(Limits.block_rows) if settings.prefix_reuse else None
    generator = Generator(link, codec, metrics, end_tokens(settings.weights, config, codec), names)
    name = settings.model_name or manifest.model_name
    vocabulary = config.get_text_config(decoder=True).vocab_size
    return Service(name, int(time.time()), vocabulary, codec, generator, link, metrics, defaults)


def application(service: Service) -> FastAPI:
    """The ASGI application around a built service."""
    app = FastAPI(title="SplitLearn client service", docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(router(service))
    error_replies.install(app)
    return app


def end_tokens(weights: Path, config: PretrainedConfig, codec: TextCodec) -> frozenset[int]:
    """Ids that end an answer: those of generation_config.json and of the config, and the tokenizer's own.

    Chat models often name the end of a turn only in generation_config.json.
    """
    named = read_generation_config(weights).get("eos_token_id")
    found: list[int] = []
    for value in (named, config.get_text_config(decoder=True).eos_token_id, codec.end_token):
        found += value if isinstance(value, list) else [] if value is None else [value]
    return frozenset(found)


def _fatal(watching: "asyncio.Task[None]") -> None:
    """Without the watch the service would never be ready, or never notice that it is not: better to end."""
    if not watching.cancelled() and (error := watching.exception()) is not None:
        log.error("the watch over the trunk failed; stopping", error=repr(error), exc_info=error)
        signal.raise_signal(signal.SIGTERM)


async def _end(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


class _Server(uvicorn.Server):
    """uvicorn, with the signals left to the composition root."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def stop(self) -> None:
        """Finishes running requests within the grace period; a second signal drops them."""
        self.force_exit = self.should_exit
        self.should_exit = True
