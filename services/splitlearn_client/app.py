"""Composition root of the client service: builds every object once, runs until SIGTERM or Ctrl-C, takes all down."""

import asyncio
import gc
import signal
import time
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path

import structlog
from fastapi import FastAPI
from transformers import PretrainedConfig

from llm_sepweight import Manifest, SepweightError
from splitlearn.engine import DeviceThread, Limits
from splitlearn.errors import SplitError
from splitlearn.hub.model import Bar, no_bar
from splitlearn.hub.weights import Weights, fetched, opened
from splitlearn.model.layout import config_from_dict
from splitlearn.model.plan import SplitPlan
from splitlearn_client.api import error_replies
from splitlearn_client.api.response_store import ResponseStore
from splitlearn_client.api.routes import router
from splitlearn_client.api.service import Service
from splitlearn_client.block_hasher import BlockHasher
from splitlearn_client.draft_model import load_draft_model
from splitlearn_client.embedding import Embedder
from splitlearn_client.errors import BadModelFiles, NoEmbeddings
from splitlearn_client.frame_shape import FrameShape
from splitlearn_client.generation import Generator
from splitlearn_client.generation_config import GenerationDefaults, read_generation_config
from splitlearn_client.local_parts import LocalParts
from splitlearn_client.metrics import ClientMetrics
from splitlearn_client.model_drafter import ModelDrafter
from splitlearn_client.parsing.dialect import Dialect, dialect_of
from splitlearn_client.pooling_config import read_pooling
from splitlearn_client.serving.https import HTTPSCertificate, exposure, https_certificate
from splitlearn_client.serving.listening import address_of, is_local, listen
from splitlearn_client.serving.server import HTTPServer
from splitlearn_client.serving.tenant_directory import TenantDirectory
from splitlearn_client.sessions import Sessions
from splitlearn_client.settings import ClientSettings, parse_methods
from splitlearn_client.shadow_model import ShadowModel
from splitlearn_client.speculation.prompt_lookup import PromptLookup
from splitlearn_client.speculation.speculator import Method, Speculators
from splitlearn_client.structured.compiler import GrammarCompiler
from splitlearn_client.tokenizer import ChatTokenizer
from splitlearn_client.trunk_connection import TrunkConnection
from splitlearn_client.verification import WeightsCheck
from splitlearn_comm import event_loop
from splitlearn_comm.access import access_from
from splitlearn_comm.replicas.connecting import connection_to
from splitlearn_comm.tracing import tracer_to

log = structlog.get_logger()


def run(settings: ClientSettings, bar: Bar = no_bar) -> None:
    """Serves until a signal. Raises SepweightError, SplitError, RequestError, CommError or OSError.

    Args:
        bar: shows the progress of fetching layers.
    """
    event_loop.run(serve(settings, bar))


async def serve(settings: ClientSettings, bar: Bar = no_bar) -> None:
    """The whole life of one client service."""
    async with AsyncExitStack() as stack:
        # before loading, which may take minutes: a busy port is reported at once
        sockets = [stack.enter_context(each) for each in listen(settings.host, settings.port)]
        tenants = TenantDirectory.of(settings)
        certificate = https_certificate(settings.ssl_certfile, settings.ssl_keyfile)
        if not is_local(sockets) and (
            open_to := exposure(is_encrypted=certificate is not None, asks_for_keys=tenants.needs_key)
        ):
            log.warning("the API is open to the network", reason=open_to)
        service = await build(settings, stack, bar)
        server = http_server(service, settings, tenants, certificate)
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, server.stop)
        address = address_of(sockets[0])
        page = f"{'http' if certificate is None else 'https'}://{address}/"
        log.info("listening", address=address, page=page)
        announcing = asyncio.create_task(_announce(service, address, page))
        stack.push_async_callback(_end, announcing)
        await server.run(sockets)
    log.info("stopped")


async def _announce(service: Service, address: str, page: str) -> None:
    """Logs "serving" once requests can be answered: a trunk is connected, bottom and top are loaded."""
    await service.connection.ready.wait()
    # loaded objects live to the end: with them, each later collection holds all requests for half a second
    gc.collect()
    gc.freeze()
    log.info("serving", address=address, page=page, model=service.model)


async def build(settings: ClientSettings, stack: AsyncExitStack, bar: Bar = no_bar) -> Service:
    """Builds every object of the service; `stack` owns their end. `bar` shows the progress of fetching layers."""
    weights = await opened(settings.weights, settings.cache_dir, tokenizer=True)
    settings = settings.model_copy(update={"weights": weights.directory})
    manifest = Manifest.read(settings.weights)
    tokens = settings.trunk_token, settings.trunk_token_file
    access = access_from(settings, *tokens, is_insecure=settings.trunk_insecure)
    trunk, connect = connection_to(settings.trunk, settings.trunk_timeout, access)
    config = config_from_dict(manifest.config)
    tokenizer = ChatTokenizer(settings.weights, config, settings.chat_template_content_format)
    stack.callback(tokenizer.close)
    defaults = GenerationDefaults.read(settings.weights, settings.generation_config)
    name = settings.served_model_name or manifest.model_name
    metrics = ClientMetrics(name)
    thread = stack.enter_context(DeviceThread(settings.threads))

    check = WeightsCheck(settings, metrics, stack)
    shadow = await _shadow(settings, thread)

    async def load_local_parts(plan: SplitPlan) -> LocalParts:
        await _fetch(weights, plan, bar)
        await check.begin(plan, connection.mark_damaged)
        try:
            parts, timing = await thread.run(_loaded, settings, plan, thread, shadow)
        except (SepweightError, SplitError):
            await check.explain()
            raise
        tokenizer.context = parts.bottom.part.context_length
        log.info("loaded", bottom=str(plan.bottom), top=str(plan.top), seconds=round(timing.compute_seconds, 2))
        return parts

    connection = TrunkConnection(
        trunk,
        connect,
        manifest.n_layers,
        settings.layers if shadow is None else shadow.layers,
        load_local_parts,
        settings.wire_codec,
        settings.failover_timeout,
        metrics.trunk_poll_errors.inc,
    )
    metrics.watch(lambda: connection.n_waiting)
    watching = asyncio.create_task(connection.watch())
    stack.push_async_callback(_end, watching)
    hasher = BlockHasher(Limits.block_size) if settings.enable_prefix_caching else None
    ends = end_tokens(settings.weights, config, tokenizer.end_token)
    sessions = Sessions(connection, metrics, hasher)
    vocabulary = config.get_text_config(decoder=True).vocab_size
    frames = FrameShape(1 + settings.num_speculative_tokens if settings.pad_frames else None, settings.frame_interval)
    speculators = await _speculators(settings, thread, vocabulary, shadow, frames)
    generator = Generator(sessions, tokenizer, ends, speculators, frames)
    grammars = GrammarCompiler(partial(tokenizer.read_for_grammars, ends))
    stack.callback(grammars.close)
    tracer = tracer_to(settings.otlp_traces_endpoint, "splitlearn-client")
    stack.push_async_callback(asyncio.to_thread, tracer.close)
    dialect = await _dialect(settings, tokenizer)
    made = tokenizer, generator, connection, metrics, grammars, _embedder(settings, sessions)
    store = ResponseStore(settings.response_store_bytes)
    return Service(name, int(time.time()), vocabulary, *made, dialect, defaults, tracer, store)


def _loaded(settings: ClientSettings, plan: SplitPlan, thread: DeviceThread, shadow: ShadowModel | None) -> LocalParts:
    """On the device thread: bottom and top, with the shadow between them if there is one."""
    parts = LocalParts.load(settings, plan, thread)
    if shadow is not None:
        shadow.complete(parts, settings, thread)
    return parts


async def _shadow(settings: ClientSettings, thread: DeviceThread) -> ShadowModel | None:
    """What guesses in place of the trunk, if that is asked for. Raises what `ShadowModel.load` raises."""
    if "shadow" not in parse_methods(settings.speculative_method) or settings.speculative_model is None:
        return None
    shadow, _ = await thread.run(ShadowModel.load, settings.speculative_model, settings)
    return shadow


async def _speculators(
    settings: ClientSettings, thread: DeviceThread, vocabulary: int, shadow: ShadowModel | None, frames: FrameShape
) -> Speculators | None:
    """What guesses next tokens. Raises what `load_draft_model` raises."""
    methods: list[Method] = []
    if "ngram" in parse_methods(settings.speculative_method):
        methods.append(Method(PromptLookup))
    if shadow is not None:
        methods.append(Method(shadow.drafter))
    elif settings.speculative_model is not None:
        engine, _ = await thread.run(load_draft_model, settings.speculative_model, settings, vocabulary, thread)
        methods.append(Method(partial(ModelDrafter, engine)))
    if not methods:
        return None
    most, rounds = settings.num_speculative_tokens, settings.speculative_rounding
    return Speculators(methods, most, rounds, frames.paced)


def _embedder(settings: ClientSettings, sessions: Sessions) -> Embedder | NoEmbeddings:
    """What makes embeddings, or why nothing does. Raises BadModelFiles."""
    pooling = read_pooling(settings.weights, settings.pooling)
    if isinstance(pooling, NoEmbeddings):
        log.warning("no embeddings", reason=str(pooling))
        return pooling
    return Embedder(sessions, pooling)


async def _dialect(settings: ClientSettings, tokenizer: ChatTokenizer) -> Dialect:
    """The form of the model's output."""
    responses = await asyncio.to_thread(tokenizer.responses)
    schema = await asyncio.to_thread(tokenizer.response_schema)
    written = await asyncio.to_thread(tokenizer.written_call)
    parsers = settings.tool_call_parser, settings.reasoning_parser
    return dialect_of(tokenizer.template, tokenizer.hidden(), *parsers, responses, schema, written)


async def _fetch(weights: Weights, plan: SplitPlan, bar: Bar) -> None:
    """Fetches bottom and top as far as they are not here, of a model that was given by its name."""
    parts = [plan.bottom, plan.top]
    if missing := weights.missing(parts):
        log.info("fetching", files=len(missing), directory=str(weights.directory))
        began = time.perf_counter()
        await fetched(weights, parts, bar)
        log.info("fetched", bottom=str(plan.bottom), top=str(plan.top), seconds=round(time.perf_counter() - began, 2))


def http_server(
    service: Service, settings: ClientSettings, tenants: TenantDirectory, certificate: HTTPSCertificate | None = None
) -> HTTPServer:
    """The server of a built service."""
    app, routes = application(service), router(service).routes
    return HTTPServer(app, routes, settings, service.metrics, tenants, certificate, lambda: service.tokenizer.context)


def application(service: Service) -> FastAPI:
    """The ASGI application around a built service."""
    app = FastAPI(title="SplitLearn client service", docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(router(service))
    error_replies.install(app)
    return app


def end_tokens(weights: Path, config: PretrainedConfig, of_tokenizer: int | None) -> frozenset[int]:
    """Token ids that end an answer, from generation_config.json, the config and the tokenizer together.

    Chat models often name the end of a turn only in generation_config.json.

    Raises:
        BadModelFiles: a file names something that is no token id.
    """
    named = read_generation_config(weights).get("eos_token_id")
    found: list[int] = []
    for value in (named, config.get_text_config(decoder=True).eos_token_id, of_tokenizer):
        found += value if isinstance(value, list) else [] if value is None else [value]
    if wrong := [each for each in found if not isinstance(each, int) or isinstance(each, bool)]:
        raise BadModelFiles(f"{weights}: eos_token_id holds {wrong[0]!r}, which is no token id; correct the file")
    return frozenset(found)


async def _end(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
