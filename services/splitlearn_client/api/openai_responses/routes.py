"""The endpoints of the Responses API."""

import json
import time
import uuid
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic_core import to_json

from splitlearn_client.api.openai_responses.conversation import chat_of, said_by
from splitlearn_client.api.openai_responses.fields import ResponsesFields
from splitlearn_client.api.openai_responses.telling import ResponseTelling
from splitlearn_client.api.preparing import chat_requests
from splitlearn_client.api.response_store import ResponseStore, StoredResponse
from splitlearn_client.api.service import Service
from splitlearn_client.api.single_answer import Json, answer_one, chat_fields
from splitlearn_client.errors import UnknownResponse
from splitlearn_client.generation import GenerationRequest
from splitlearn_client.quotas import account_of
from splitlearn_client.request_info import info_of

# how much of an unknown id an error repeats
_SHOWN_CHARACTERS = 100


def add_responses_routes(routes: APIRouter, service: Service) -> None:
    """Adds the endpoints."""

    @routes.post("/v1/responses")
    async def create(fields: ResponsesFields, request: Request) -> Response:
        service.check_model(fields.model)
        tenant = account_of(request.scope).name
        before = _before(service.responses, tenant, fields.previous_response_id)
        body, places = chat_of(fields, before)
        chat = chat_fields(body, places)
        with places.naming():
            (wanted,), reading = await chat_requests(service, chat, request.receive, info_of(request.scope))
        response = _response(fields, wanted)
        # without the instructions, which are this request's alone; as bytes, as nothing may keep the body's objects
        messages = body["messages"][0 if fields.instructions is None else 1 :]
        keep = partial(_keep, service.responses, tenant, to_json(messages) if fields.store else None)
        telling = ResponseTelling(response, reading, _new_identity, keep, streams=fields.stream)
        info_of(request.scope).told_in_stream = telling.failed
        return answer_one(service, wanted, request, telling, places, reading, stream=fields.stream)

    @routes.get("/v1/responses/{response_id}")
    async def retrieve(response_id: str, request: Request) -> Response:
        stored = _found(service.responses, account_of(request.scope).name, response_id, None)
        return Response(stored.body, media_type="application/json")

    @routes.delete("/v1/responses/{response_id}")
    async def delete(response_id: str, request: Request) -> dict[str, Any]:
        if not service.responses.remove(account_of(request.scope).name, response_id):
            raise _unknown(response_id, None)
        return {"id": response_id, "object": "response", "deleted": True}


def _new_identity(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex}"


def _response(fields: ResponsesFields, wanted: GenerationRequest) -> Json:
    """The object while its answer is being generated."""
    said = fields.model_dump(by_alias=True, exclude_unset=True)
    return {
        "id": _new_identity("resp"),
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": fields.instructions,
        "max_output_tokens": fields.max_output_tokens,
        "metadata": fields.metadata,
        "model": fields.model,
        "output": [],
        "parallel_tool_calls": fields.parallel_tool_calls,
        "previous_response_id": fields.previous_response_id,
        "reasoning": {"effort": fields.effort, "summary": None},
        "store": fields.store,
        "temperature": wanted.sampling.temperature,
        "text": {"format": {"type": "text"}, **said.get("text", {})},
        "tool_choice": said.get("tool_choice", "auto"),
        "tools": [each.model_dump() for each in fields.tools],
        "top_logprobs": wanted.sampling.top_logprobs or 0,
        "top_p": wanted.sampling.top_p,
        "truncation": "disabled",
        "usage": None,
    }


def _keep(store: ResponseStore, tenant: str, before: bytes | None, response: Json) -> None:
    """Keeps a complete response for later requests, and says in it whether it could be kept.

    Args:
        before: the messages before it, which are one at least, as JSON; None if it is not to be kept.
    """
    if before is None:
        return
    said = said_by(response["output"])
    messages = before if said is None else before[:-1] + b"," + to_json(said) + b"]"
    response["store"] = store.add(tenant, response["id"], StoredResponse(to_json(response), messages))


def _before(store: ResponseStore, tenant: str, identity: str | None) -> list[Json]:
    """The messages that a request goes on with. Raises UnknownResponse."""
    if identity is None:
        return []
    messages: list[Json] = json.loads(_found(store, tenant, identity, "previous_response_id").messages)
    return messages


def _found(store: ResponseStore, tenant: str, identity: str, param: str | None) -> StoredResponse:
    stored = store.get(tenant, identity)
    if stored is None:
        raise _unknown(identity, param)
    return stored


def _unknown(identity: str, param: str | None) -> UnknownResponse:
    return UnknownResponse(
        f"no response {identity[:_SHOWN_CHARACTERS]!r} is kept here for this caller: it never was, or it made room for "
        "newer ones, or the service has restarted; send the whole conversation as input",
        param,
    )
