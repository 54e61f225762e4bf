"""The endpoints."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import structlog
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from client_service.answer import Piece
from client_service.api import error_replies
from client_service.api.disconnect import EventStream, unless_disconnected
from client_service.api.replies import ReplyShape
from client_service.api.schema import ChatFields, CompletionFields, GenerationFields
from client_service.errors import BadRequest, RequestError, UnknownModel
from client_service.generation import GenerationRequest, Generator
from client_service.generation_config import GenerationDefaults
from client_service.metrics import ClientMetrics
from client_service.report import Report
from client_service.tokenizer import TextCodec
from client_service.trunk_link import TrunkLink

log = structlog.get_logger()


@dataclass(frozen=True)
class Service:
    """What the endpoints need; built by the composition root."""

    model: str
    created: int
    vocabulary: int
    codec: TextCodec
    generator: Generator
    link: TrunkLink
    metrics: ClientMetrics
    defaults: GenerationDefaults = field(default_factory=GenerationDefaults)


def router(service: Service) -> APIRouter:
    """Every endpoint of the client service."""
    routes = APIRouter()

    @routes.post("/v1/chat/completions")
    async def chat_completions(fields: ChatFields, request: Request) -> Response:
        _check_model(service, fields.model)
        prompt = await service.codec.tokenize_chat([message.plain() for message in fields.messages])
        tops = (fields.top_logprobs or 0) if fields.logprobs else None
        most = fields.max_completion_tokens or fields.max_tokens or service.defaults.max_tokens
        asked = _asked(service, fields, prompt, most, tops)
        return await _answer(service, fields, asked, request, chat=True)

    @routes.post("/v1/completions")
    async def completions(fields: CompletionFields, request: Request) -> Response:
        _check_model(service, fields.model)
        prompt = await _prompt_ids(service, fields.prompt)
        asked = _asked(service, fields, prompt, fields.max_tokens, fields.logprobs)
        return await _answer(service, fields, asked, request, chat=False)

    @routes.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(service)]}

    @routes.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        _check_model(service, name)
        return _model(service)

    @routes.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "alive"}

    @routes.get("/ready")
    async def ready() -> JSONResponse:
        if service.link.trouble is not None:
            return JSONResponse({"status": "not ready", "reason": service.link.trouble}, 503)
        ends = service.link.ends
        return JSONResponse({"status": "ready", "fingerprint": ends.fingerprint, "layers": ends.plan.layers})

    @routes.get("/metrics")
    async def metrics() -> Response:
        service.metrics.trunk_ready.set(service.link.trouble is None)
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @routes.get("/", response_class=HTMLResponse)
    async def page() -> str:
        return files("client_service").joinpath("page/index.html").read_text(encoding="utf-8")

    return routes


def _asked(
    service: Service, fields: GenerationFields, prompt: list[int], max_tokens: int | None, top_logprobs: int | None
) -> GenerationRequest:
    if not prompt:
        raise BadRequest("the prompt has no tokens")
    sampling = fields.sampling(top_logprobs, service.defaults.sampling)
    return GenerationRequest(tuple(prompt), max_tokens, sampling, fields.stops)


async def _answer(
    service: Service, fields: GenerationFields, asked: GenerationRequest, request: Request, *, chat: bool
) -> Response:
    shape = ReplyShape(chat, fields.model)
    report = Report()
    pieces = _measured(service, asked, report)
    if not fields.stream:
        collected = await unless_disconnected(request.receive, _collect(pieces))
        return JSONResponse(shape.whole(collected, report))
    include_usage = fields.stream_options is not None and fields.stream_options.include_usage
    events = _events(shape, pieces, report, include_usage=include_usage)
    # the first event is awaited before the status line goes out, so that refusals keep their status
    return EventStream(await unless_disconnected(request.receive, anext(events)), events)


async def _measured(service: Service, asked: GenerationRequest, report: Report) -> AsyncGenerator[Piece]:
    """The generator's pieces, with the request's life counted around them."""
    reason = "internal_error"
    try:
        with service.metrics.running.track_inprogress():
            async with aclosing(service.generator.generate(asked, report)) as pieces:
                async for piece in pieces:
                    reason = piece.finish_reason or reason
                    yield piece
    except (asyncio.CancelledError, GeneratorExit):
        reason = "cancelled"
        raise
    except RequestError as error:
        reason = error.code
        if error.status >= 500:
            log.warning(
                "request failed", code=reason, session=report.session, tokens=report.completion_tokens, error=str(error)
            )
        raise
    finally:
        service.metrics.finished.labels(reason).inc()
        service.metrics.prompt_tokens.inc(report.prompt_tokens)
        service.metrics.generation_tokens.inc(report.completion_tokens)
        if report.last_token is not None:
            service.metrics.request.observe(report.last_token - report.began)


async def _collect(pieces: AsyncGenerator[Piece]) -> list[Piece]:
    return [piece async for piece in pieces]


async def _events(
    shape: ReplyShape, pieces: AsyncGenerator[Piece], report: Report, *, include_usage: bool
) -> AsyncGenerator[str]:
    async with aclosing(pieces):
        yield _event(shape.chunk(await anext(pieces), report, first=True))
        try:
            async for piece in pieces:
                yield _event(shape.chunk(piece, report, first=False))
        except RequestError as error:
            yield _event(error_replies.body(error))
            return
        except Exception as error:  # noqa: BLE001 (the status line is out: only an event can still tell)
            yield _event(error_replies.unforeseen(error))
            return
    if include_usage:
        yield _event(shape.usage_chunk(report))
    yield "data: [DONE]\n\n"


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n"


async def _prompt_ids(service: Service, prompt: str | list[int]) -> list[int]:
    if isinstance(prompt, str):
        return await service.codec.tokenize(prompt)
    wrong = [i for i in prompt if not 0 <= i < service.vocabulary]
    if wrong:
        raise BadRequest(f"token id {wrong[0]} does not exist; ids go from 0 to {service.vocabulary - 1}", "prompt")
    return prompt


def _check_model(service: Service, name: str) -> None:
    if name != service.model:
        raise UnknownModel(f"the model {name!r} is not served here; this service has {service.model!r}", "model")


def _model(service: Service) -> dict[str, Any]:
    return {"id": service.model, "object": "model", "created": service.created, "owned_by": "splitlearn"}
