"""Embeddings of texts over HTTP, with OpenAI's fields and replies.

Shapes: D numbers of a vector.
"""

import base64
from collections.abc import Iterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from pydantic_core import to_json
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from splitlearn_client.api.deferred import DeferredResponse
from splitlearn_client.api.disconnect import unless_disconnected
from splitlearn_client.api.messages import Json
from splitlearn_client.api.prompt_fields import MOST_INPUT_TOKENS
from splitlearn_client.api.replies import measurements
from splitlearn_client.api.schema import EmbeddingFields
from splitlearn_client.api.service import Service
from splitlearn_client.embedding import Embedder, EmbeddingInput
from splitlearn_client.errors import BadRequest, NoEmbeddings
from splitlearn_client.quotas import Account, account_of
from splitlearn_client.report import Report, together
from splitlearn_client.request_info import RequestInfo, info_of
from splitlearn_client.request_record import recorded, span_attributes


def add_embedding_routes(routes: APIRouter, service: Service) -> None:
    """Adds the endpoint."""

    @routes.post("/v1/embeddings")
    async def embeddings(fields: EmbeddingFields, request: Request) -> Response:
        service.check_model(fields.model)
        embedder = service.embedder
        if isinstance(embedder, NoEmbeddings):
            raise NoEmbeddings(str(embedder))
        info = info_of(request.scope)
        with info.tokenizing():
            inputs = await unless_disconnected(request.receive, _inputs(service, embedder, fields))
        embedder.check(inputs, fields.dimensions)
        work = _Work(service, embedder, inputs, fields.dimensions, fields.encoding_format == "base64")
        account = account_of(request.scope)
        return DeferredResponse(lambda receive: work.response(receive, account, info))


async def _inputs(service: Service, embedder: Embedder, fields: EmbeddingFields) -> list[EmbeddingInput]:
    """The ids of each input; texts have the model's own prompt before them. Raises BadRequest, which names it."""
    prompt, n_prompt = embedder.pooling.prompt, 0
    if not embedder.pooling.includes_prompt:
        n_prompt = await service.tokenizer.count_before_more(prompt)
    found, n_tokens = list[EmbeddingInput](), 0
    for name, each in fields.inputs.items():
        is_text = isinstance(each, str)
        ids = await service.tokenizer.tokenize(prompt + each, name) if isinstance(each, str) else each
        if not ids:
            raise BadRequest("the input has no tokens", name)
        n_tokens += len(ids)
        if n_tokens > MOST_INPUT_TOKENS:
            raise BadRequest(f"the inputs have more than {MOST_INPUT_TOKENS} tokens together; send fewer", "input")
        service.check_ids(ids, name)
        found.append(EmbeddingInput(ids, name, n_prompt if is_text else 0))
    return found


@dataclass(frozen=True)
class _Work:
    """What is left to do when the request's body is gone."""

    service: Service
    embedder: Embedder
    inputs: Sequence[EmbeddingInput]
    dimensions: int | None
    as_base64: bool

    async def response(self, receive: Receive, account: Account, info: RequestInfo) -> Response:
        """The reply. Raises RequestError, or ClientDisconnect if the client disconnects first."""
        reports = [Report()]
        vectors = await unless_disconnected(receive, self._vectors(account, info, reports))
        report = together(reports)
        counts = {"prompt_tokens": report.prompt_tokens, "total_tokens": report.prompt_tokens}
        end: Json = {"model": self.service.model, "usage": counts, "splitlearn": measurements(report)}
        return _Vectors(_pieces(vectors, end, as_base64=self.as_base64), media_type="application/json")

    async def _vectors(self, account: Account, info: RequestInfo, reports: list[Report]) -> list[bytes]:
        """The vectors of all inputs in their order, as fp32 in little-endian order."""
        attributes = span_attributes("embeddings", self.service.model)
        found = [b""] * len(self.inputs)
        with recorded(self.service.metrics, self.service.tracer, info, reports, attributes) as record:
            self.service.spend(account, prompt=sum(len(each.ids) for each in self.inputs))
            vectors = self.embedder.embed(self.inputs, self.dimensions, account.name, reports)
            async with aclosing(vectors):
                async for number, vector_D in vectors:
                    found[number] = vector_D.numpy().astype("<f4").tobytes()
            record.finish_reason = "stop"
        return found


class _Vectors(StreamingResponse):
    """The reply, written vector by vector as it is sent: as JSON the numbers take five times as much memory."""

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(ClientDisconnect):
            await unless_disconnected(receive, self.stream_response(send))


def _pieces(vectors: Sequence[bytes], end: Json, *, as_base64: bool) -> Iterator[bytes]:
    """The JSON of a reply. `end` has the members behind the vectors."""
    yield b'{"object":"list","data":['
    for index, vector in enumerate(vectors):
        written = base64.b64encode(vector).decode() if as_base64 else np.frombuffer(vector, "<f4").tolist()
        yield b"," * bool(index) + to_json({"object": "embedding", "index": index, "embedding": written})
    yield b"]," + to_json(end)[1:]
