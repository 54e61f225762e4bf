"""The endpoints of the Messages API."""

import uuid

from fastapi import APIRouter, Request
from fastapi.responses import Response

from splitlearn_client.api.anthropic.conversation import chat_of
from splitlearn_client.api.anthropic.fields import CountFields, MessagesFields
from splitlearn_client.api.anthropic.telling import MessageTelling
from splitlearn_client.api.disconnect import unless_disconnected
from splitlearn_client.api.preparing import chat_requests
from splitlearn_client.api.service import Service
from splitlearn_client.api.single_answer import answer_one, chat_fields
from splitlearn_client.request_info import info_of


def add_messages_routes(routes: APIRouter, service: Service) -> None:
    """Adds the endpoints."""

    @routes.post("/v1/messages")
    async def create(fields: MessagesFields, request: Request) -> Response:
        service.check_model(fields.model)
        body, places = chat_of(fields)
        chat = chat_fields(body, places)
        with places.naming():
            (wanted,), reading = await chat_requests(service, chat, request.receive, info_of(request.scope))
        telling = MessageTelling(f"msg_{uuid.uuid4().hex}", fields.model, reading, streams=fields.stream)
        return answer_one(service, wanted, request, telling, places, reading, stream=fields.stream)

    @routes.post("/v1/messages/count_tokens")
    async def count_tokens(fields: CountFields, request: Request) -> dict[str, int]:
        service.check_model(fields.model)
        body, places = chat_of(fields)
        chat = chat_fields(body, places)
        messages = [message.plain() for message in chat.messages]
        with places.naming():
            ids = await unless_disconnected(request.receive, service.tokenizer.tokenize_chat(messages, chat.rendering))
        return {"input_tokens": len(ids)}
