"""The HTTP endpoints."""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic_core import to_json
from starlette.types import Receive

from splitlearn_client.answer import TokenDelta
from splitlearn_client.api.deferred import DeferredResponse
from splitlearn_client.api.disconnect import unless_disconnected
from splitlearn_client.api.event_stream import DONE, event, event_stream
from splitlearn_client.api.json_body import ApiRoute
from splitlearn_client.api.replies import ReplyShape, measurements, usage
from splitlearn_client.api.schema import MOST_PROMPT_LOGPROBS, ChatFields, CompletionFields, GenerationFields
from splitlearn_client.api.tokenizing import add_tokenizer_routes
from splitlearn_client.errors import BadRequest, UnknownModel
from splitlearn_client.generation import GenerationRequest, Generator
from splitlearn_client.generation_config import GenerationDefaults
from splitlearn_client.metrics import ClientMetrics
from splitlearn_client.quotas import Account, account_of
from splitlearn_client.report import Report, together
from splitlearn_client.request_info import RequestInfo, info_of
from splitlearn_client.request_record import RequestRecord, recorded, span_attributes
from splitlearn_client.tokenizer import ChatTokenizer
from splitlearn_client.trunk_connection import TrunkConnection
from splitlearn_comm.tracing import NoTracer, Tracer

# how much of an unknown name an error repeats
_SHOWN_CHARACTERS = 100


@dataclass(frozen=True)
class Service:
    """What the endpoints use; the composition root builds it."""

    model: str
    created: int
    vocabulary: int
    tokenizer: ChatTokenizer
    generator: Generator
    connection: TrunkConnection
    metrics: ClientMetrics
    defaults: GenerationDefaults = field(default_factory=GenerationDefaults)
    tracer: Tracer = field(default_factory=NoTracer)


def router(service: Service) -> APIRouter:
    """Every endpoint of the client service."""
    routes = APIRouter(route_class=ApiRoute)

    @routes.post("/v1/chat/completions")
    async def chat_completions(fields: ChatFields, request: Request) -> Response:
        _check_model(service, fields.model)
        messages = [message.plain() for message in fields.messages]
        info = info_of(request.scope)
        with info.tokenizing():
            prompt = await unless_disconnected(request.receive, service.tokenizer.tokenize_chat(messages))
        tops = (fields.top_logprobs or 0) if fields.logprobs else None
        most = fields.max_completion_tokens or fields.max_tokens or service.defaults.max_tokens
        wanted = _requests(service, fields, {"messages": prompt}, most, tops, info.tenant)
        return _answer(service, fields, wanted, request)

    @routes.post("/v1/completions")
    async def completions(fields: CompletionFields, request: Request) -> Response:
        _check_model(service, fields.model)
        info = info_of(request.scope)
        with info.tokenizing():
            prompts = await unless_disconnected(request.receive, _tokenized(service.tokenizer, fields.prompts))
        most, tops = fields.max_tokens, fields.logprobs
        wanted = _requests(service, fields, prompts, most, tops, info.tenant)
        return _answer(service, fields, wanted, request)

    @routes.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(service)]}

    @routes.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        _check_model(service, name)
        return _model(service)

    add_tokenizer_routes(routes, service.tokenizer, partial(_check_model, service))
    _add_operations(routes, service)
    return routes


def _add_operations(routes: APIRouter, service: Service) -> None:
    """What operators and browsers ask for."""

    @routes.get("/version")
    async def service_version() -> dict[str, str]:
        return {"version": version("splitlearn")}

    @routes.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "alive"}

    @routes.get("/ready")
    async def ready() -> JSONResponse:
        if service.connection.not_ready_reason is not None:
            why = {"reason": service.connection.not_ready_reason, "passes": service.connection.may_recover}
            return JSONResponse({"status": "not ready", **why}, 503)
        parts = service.connection.local_parts
        return JSONResponse({"status": "ready", "fingerprint": parts.fingerprint, "layers": parts.plan.layers})

    @routes.get("/metrics")
    async def metrics() -> Response:
        service.metrics.trunk_ready.set(service.connection.not_ready_reason is None)
        service.metrics.replicas(service.connection.replicas.states())
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @routes.get("/", response_class=HTMLResponse)
    async def page() -> str:
        return files("splitlearn_client").joinpath("page/index.html").read_text(encoding="utf-8")


@dataclass(frozen=True)
class _Generation:
    """The answer to one prompt of a request. It starts to run when its deltas are iterated."""

    shape: ReplyShape
    report: Report
    deltas: AsyncGenerator[TokenDelta]


async def _tokenized(tokenizer: ChatTokenizer, prompts: Mapping[str, str | list[int]]) -> dict[str, list[int]]:
    return {name: await tokenizer.tokenize(each) if isinstance(each, str) else each for name, each in prompts.items()}


def _requests(
    service: Service,
    fields: GenerationFields,
    prompts: Mapping[str, list[int]],
    max_tokens: int | None,
    top_logprobs: int | None,
    tenant: str,
) -> list[GenerationRequest]:
    """One generation request per prompt. Raises BadRequest, which names the prompt."""
    sampling, rules = fields.sampling(top_logprobs, service.defaults.sampling), fields.stop_rules
    for name, ids in prompts.items():
        if not ids:
            raise BadRequest("the prompt has no tokens", name)
        # those of texts too: a tokenizer may have more tokens than the model has embeddings
        _check_ids(service, ids, name)
    _check_ids(service, [token for token, _ in sampling.logit_bias], "logit_bias")
    _check_ids(service, fields.stop_token_ids, "stop_token_ids")
    if max_tokens is not None and rules.min_tokens > max_tokens:
        raise BadRequest(f"min_tokens is {rules.min_tokens}, and the answer has at most {max_tokens}", "min_tokens")
    echo = isinstance(fields, CompletionFields) and fields.echo
    wanted = [
        GenerationRequest(tuple(ids), max_tokens, sampling, rules, name, tenant, echo, fields.prompt_logprobs)
        for name, ids in prompts.items()
    ]
    _check_scores(wanted)
    return wanted


def _check_scores(wanted: Sequence[GenerationRequest]) -> None:
    """Raises BadRequest if the reply would have more log-probabilities of prompts than it may."""
    n_scores = sum(len(each.prompt) * (1 + each.n_scored) for each in wanted if each.n_scored is not None)
    if n_scores > MOST_PROMPT_LOGPROBS:
        raise BadRequest(
            f"this asks for {n_scores} log-probabilities of prompts, and a reply has at most {MOST_PROMPT_LOGPROBS}; "
            "ask for fewer alternatives, or send the prompts one by one",
            "logprobs" if wanted[0].prompt_logprobs is None else "prompt_logprobs",
        )


def _check_ids(service: Service, ids: Sequence[int], param: str) -> None:
    if not ids:
        return
    if min(ids) < 0 or max(ids) >= service.vocabulary:
        wrong = next(token for token in ids if not 0 <= token < service.vocabulary)
        raise BadRequest(f"token id {wrong} does not exist; ids go from 0 to {service.vocabulary - 1}", param)


def _answer(service: Service, fields: GenerationFields, wanted: list[GenerationRequest], request: Request) -> Response:
    for later in wanted[1:]:
        service.generator.check(later)
    shape = ReplyShape(isinstance(fields, ChatFields), fields.model)
    generations = _generations(service, shape, wanted, account_of(request.scope), info_of(request.scope))
    if not fields.stream:
        return DeferredResponse(lambda receive: _whole_response(receive, generations))
    events = _events(generations, include_usage=fields.include_usage, continuous_usage=fields.continuous_usage)
    return DeferredResponse(lambda receive: event_stream(receive, events))


def _generations(
    service: Service, shape: ReplyShape, wanted: list[GenerationRequest], account: Account, info: RequestInfo
) -> Iterator[_Generation]:
    """One generation per prompt. They run one after the other, so that many prompts take no more capacity than one."""
    for index, each in enumerate(wanted):
        report = Report()
        attributes = span_attributes("chat" if shape.chat else "text_completion", shape.model, each)
        record = recorded(service.metrics, service.tracer, info, report, attributes)
        yield _Generation(replace(shape, index=index), report, _measured(service, each, account, report, record))


async def _whole_response(receive: Receive, generations: Iterator[_Generation]) -> Response:
    return Response(await unless_disconnected(receive, _whole(generations)), media_type="application/json")


async def _whole(generations: Iterator[_Generation]) -> bytes:
    bodies, reports = [], []
    for generation in generations:
        deltas = [delta async for delta in generation.deltas]
        # on a thread, as the log-probabilities of a long prompt take long
        bodies.append(await asyncio.to_thread(generation.shape.whole, deltas, generation.report))
        reports.append(generation.report)
    choices = [choice for body in bodies for choice in body["choices"]]
    total = together(reports)
    body = bodies[0] | {"choices": choices, "usage": usage(total), "splitlearn": measurements(total)}
    return await asyncio.to_thread(to_json, body)


async def _measured(
    service: Service,
    wanted: GenerationRequest,
    account: Account,
    report: Report,
    record: AbstractContextManager[RequestRecord],
) -> AsyncGenerator[TokenDelta]:
    """The generator's deltas, with what is told of the request at its end. Its tokens count in its tenant's account."""
    _spend(service, account, prompt=len(wanted.prompt))
    with record as current:
        async with aclosing(service.generator.generate(wanted, report)) as deltas:
            async for delta in deltas:
                current.finish_reason = delta.finish_reason
                _spend(service, account, generation=delta.n_tokens)
                yield delta


def _spend(service: Service, account: Account, *, prompt: int = 0, generation: int = 0) -> None:
    account.spend(prompt + generation, time.monotonic())
    service.metrics.tenant_tokens(account.name, prompt=prompt, generation=generation)


async def _events(
    generations: Iterator[_Generation], *, include_usage: bool, continuous_usage: bool
) -> AsyncGenerator[str]:
    reports: list[Report] = []
    for generation in generations:
        reports.append(generation.report)
        first = True
        async with aclosing(generation.deltas):
            async for delta in generation.deltas:
                chunk = generation.shape.chunk(delta, generation.report, first=first)
                spent = {"usage": usage(together(reports))} if continuous_usage else {}
                first = False
                yield event(chunk | spent)
    if include_usage:
        yield event(generation.shape.usage_chunk(together(reports)))
    yield DONE


def _check_model(service: Service, name: str | None) -> None:
    if name is not None and name != service.model:
        shown = name[:_SHOWN_CHARACTERS]
        raise UnknownModel(f"the model {shown!r} is not served here; this service has {service.model!r}", "model")


def _model(service: Service) -> dict[str, Any]:
    return {"id": service.model, "object": "model", "created": service.created, "owned_by": "splitlearn"}
