"""The HTTP endpoints."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from splitlearn_client.api.answering import answer
from splitlearn_client.api.disconnect import unless_disconnected
from splitlearn_client.api.embeddings import add_embedding_routes
from splitlearn_client.api.json_body import ApiRoute
from splitlearn_client.api.reading import constraint_of, prefix_of, reading_of
from splitlearn_client.api.schema import (
    MOST_ANSWERS,
    MOST_PROMPT_LOGPROBS,
    ChatFields,
    CompletionFields,
    GenerationFields,
)
from splitlearn_client.api.service import Service
from splitlearn_client.api.tokenizing import add_tokenizer_routes
from splitlearn_client.errors import BadRequest
from splitlearn_client.generation import GenerationRequest
from splitlearn_client.request_info import info_of
from splitlearn_client.tokenizer import ChatTokenizer


def router(service: Service) -> APIRouter:
    """Every endpoint of the client service."""
    routes = APIRouter(route_class=ApiRoute)

    @routes.post("/v1/chat/completions")
    async def chat_completions(fields: ChatFields, request: Request) -> Response:
        service.check_model(fields.model)
        messages = [message.plain() for message in fields.messages]
        info = info_of(request.scope)
        with info.tokenizing():
            prompt = await unless_disconnected(
                request.receive, service.tokenizer.tokenize_chat(messages, fields.rendering)
            )
        tops = (fields.top_logprobs or 0) if fields.logprobs else None
        most = fields.max_completion_tokens or fields.max_tokens or service.defaults.max_tokens
        ending = await service.tokenizer.detokenize(prompt) if service.dialect.responses else None
        prefix = prefix_of(fields, service.tokenizer.ending(prompt) if ending is None else ending)
        reading = reading_of(fields, service.dialect, prefix)
        wanted = _requests(service, fields, {"messages": prompt}, most, tops, info.tenant)
        if reading is not None:
            wanted = [replace(each, shown=reading.shown) for each in wanted]
        if (constraint := constraint_of(fields, service.dialect, prefix)) is not None:
            grammar = await unless_disconnected(request.receive, service.grammars.compile(constraint))
            wanted = [replace(each, grammar=grammar) for each in wanted]
        return answer(service, fields, wanted, request, reading)

    @routes.post("/v1/completions")
    async def completions(fields: CompletionFields, request: Request) -> Response:
        service.check_model(fields.model)
        info = info_of(request.scope)
        with info.tokenizing():
            prompts = await unless_disconnected(request.receive, _tokenized(service.tokenizer, fields.prompts))
        most, tops = fields.max_tokens, fields.logprobs
        wanted = _requests(service, fields, prompts, most, tops, info.tenant)
        if (constraint := fields.constraint()) is not None:
            grammar = await unless_disconnected(request.receive, service.grammars.compile(constraint))
            wanted = [replace(each, grammar=grammar) for each in wanted]
        return answer(service, fields, wanted, request)

    @routes.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(service)]}

    @routes.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        service.check_model(name)
        return _model(service)

    add_embedding_routes(routes, service)
    add_tokenizer_routes(routes, service.tokenizer, service.check_model)
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
        service.check_ids(ids, name)
    service.check_ids([token for token, _ in sampling.logit_bias], "logit_bias")
    service.check_ids(fields.stop_token_ids, "stop_token_ids")
    if max_tokens is not None and rules.min_tokens > max_tokens:
        raise BadRequest(f"min_tokens is {rules.min_tokens}, and the answer has at most {max_tokens}", "min_tokens")
    if len(prompts) * fields.n_answers > MOST_ANSWERS:
        raise BadRequest(
            f"{len(prompts)} prompts with {fields.n_answers} answers each are more than {MOST_ANSWERS}; ask for fewer",
            "n" if fields.n_answers == fields.n else "best_of",
        )
    if fields.n_answers > fields.n and sampling.top_logprobs is None:
        # by them the best are chosen
        sampling = replace(sampling, top_logprobs=0)
    echo = isinstance(fields, CompletionFields) and fields.echo
    wanted = [
        GenerationRequest(tuple(ids), max_tokens, sampling, rules, name, tenant, echo, fields.prompt_logprobs)
        for name, ids in prompts.items()
    ]
    _check_scores(wanted, fields.n_answers)
    return wanted


def _check_scores(wanted: Sequence[GenerationRequest], n_answers: int) -> None:
    """Raises BadRequest if the reply would have more log-probabilities of prompts than it may."""
    scored = [len(each.prompt) * (1 + each.n_scored) for each in wanted if each.n_scored is not None]
    n_scores = n_answers * sum(scored)
    if n_scores > MOST_PROMPT_LOGPROBS:
        raise BadRequest(
            f"this asks for {n_scores} log-probabilities of prompts, and a reply has at most {MOST_PROMPT_LOGPROBS}; "
            "ask for fewer alternatives, or send the prompts one by one",
            "logprobs" if wanted[0].prompt_logprobs is None else "prompt_logprobs",
        )


def _model(service: Service) -> dict[str, Any]:
    return {
        "id": service.model,
        "object": "model",
        "created": service.created,
        "owned_by": "splitlearn",
        "max_model_len": service.tokenizer.context,
    }
