"""Text to token ids and back over HTTP, with the paths and fields of vLLM."""

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request

from splitlearn_client.api.disconnect import unless_disconnected
from splitlearn_client.api.schema import DetokenizeFields, TokenizeFields
from splitlearn_client.tokenizer import ChatTokenizer


def add_tokenizer_routes(
    routes: APIRouter, tokenizer: ChatTokenizer, check_model: Callable[[str | None], None]
) -> None:
    """Adds the endpoints. `check_model` raises for the name of another model; None is the model served."""

    @routes.post("/tokenize")
    async def tokenize(fields: TokenizeFields, request: Request) -> dict[str, Any]:
        check_model(fields.model)
        ids = await unless_disconnected(request.receive, _ids(tokenizer, fields))
        names = await tokenizer.spelled(ids) if fields.return_token_strs else None
        return {"count": len(ids), "max_model_len": tokenizer.context, "tokens": ids, "token_strs": names}

    @routes.post("/detokenize")
    async def detokenize(fields: DetokenizeFields, request: Request) -> dict[str, str]:
        check_model(fields.model)
        return {"prompt": await unless_disconnected(request.receive, tokenizer.detokenize(fields.tokens))}

    @routes.get("/tokenizer_info")
    async def tokenizer_info() -> dict[str, Any]:
        return tokenizer.described()


async def _ids(tokenizer: ChatTokenizer, fields: TokenizeFields) -> list[int]:
    if fields.messages is None:
        return await tokenizer.tokenize(fields.prompt or "", bare=fields.add_special_tokens is False)
    messages = [message.plain() for message in fields.messages]
    return await tokenizer.tokenize_chat(messages, fields.rendering, bare=not fields.add_special_tokens)
