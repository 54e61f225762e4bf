"""The HTTP endpoints."""

from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from splitlearn_client.api.answering import answer
from splitlearn_client.api.anthropic.routes import add_messages_routes
from splitlearn_client.api.embeddings import add_embedding_routes
from splitlearn_client.api.json_body import ApiRoute
from splitlearn_client.api.openai_responses.routes import add_responses_routes
from splitlearn_client.api.page import add_page_routes
from splitlearn_client.api.preparing import chat_requests, completion_requests
from splitlearn_client.api.schema import ChatFields, CompletionFields
from splitlearn_client.api.service import Service
from splitlearn_client.api.tokenizing import add_tokenizer_routes
from splitlearn_client.request_info import info_of


def router(service: Service) -> APIRouter:
    """Every endpoint of the client service."""
    routes = APIRouter(route_class=ApiRoute)

    @routes.post("/v1/chat/completions")
    async def chat_completions(fields: ChatFields, request: Request) -> Response:
        service.check_model(fields.model)
        wanted, reading = await chat_requests(service, fields, request.receive, info_of(request.scope))
        return answer(service, fields, wanted, request, reading)

    @routes.post("/v1/completions")
    async def completions(fields: CompletionFields, request: Request) -> Response:
        service.check_model(fields.model)
        wanted = await completion_requests(service, fields, request.receive, info_of(request.scope))
        return answer(service, fields, wanted, request)

    @routes.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(service)]}

    @routes.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        service.check_model(name)
        return _model(service)

    add_responses_routes(routes, service)
    add_messages_routes(routes, service)
    add_embedding_routes(routes, service)
    add_tokenizer_routes(routes, service.tokenizer, service.check_model)
    _add_operations(routes, service)
    add_page_routes(routes)
    return routes


def _add_operations(routes: APIRouter, service: Service) -> None:
    """What operators ask for."""

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
        service.metrics.response_store.set(service.responses.n_bytes)
        service.metrics.replicas(service.connection.replicas.states())
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _model(service: Service) -> dict[str, Any]:
    return {
        "id": service.model,
        "object": "model",
        "created": service.created,
        "owned_by": "splitlearn",
        "max_model_len": service.tokenizer.context,
    }
