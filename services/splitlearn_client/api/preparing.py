"""Makes generation requests of what a request's body says."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from starlette.types import Receive

from splitlearn_client.api.disconnect import unless_disconnected
from splitlearn_client.api.reading import constraint_of, prefix_of, reading_of
from splitlearn_client.api.schema import (
    MOST_ANSWERS,
    MOST_PROMPT_LOGPROBS,
    ChatFields,
    CompletionFields,
    GenerationFields,
)
from splitlearn_client.api.service import Service
from splitlearn_client.errors import BadRequest
from splitlearn_client.generation import GenerationRequest
from splitlearn_client.parsing.dialect import Reading
from splitlearn_client.request_info import RequestInfo


async def chat_requests(
    service: Service, fields: ChatFields, receive: Receive, info: RequestInfo
) -> tuple[list[GenerationRequest], Reading | None]:
    """What a chat asks for, and how its answers are taken apart. Raises RequestError."""
    messages = [message.plain() for message in fields.messages]
    most = fields.max_completion_tokens or fields.max_tokens or service.defaults.max_tokens
    n_kept = _most_kept(service, fields, most)
    tokenizing = service.tokenizer.tokenize_chat(messages, fields.rendering, is_cut=n_kept is not None)
    with info.tokenizing():
        prompt = _end_of(await unless_disconnected(receive, tokenizing), n_kept)
        bad_words = await unless_disconnected(receive, service.tokenizer.spellings(fields.bad_words))
    tops = (fields.top_logprobs or 0) if fields.logprobs else None
    ending = await service.tokenizer.detokenize(prompt) if service.dialect.responses else None
    prefix = prefix_of(fields, service.tokenizer.ending(prompt) if ending is None else ending)
    reading = reading_of(fields, service.dialect, prefix)
    wanted = _requests(service, fields, {"messages": prompt}, bad_words, most, tops, info.tenant)
    if reading is not None:
        wanted = [replace(each, shown=reading.shown) for each in wanted]
    if (constraint := constraint_of(fields, service.dialect, prefix)) is not None:
        grammar = await unless_disconnected(receive, service.grammars.compile(constraint))
        wanted = [replace(each, grammar=grammar) for each in wanted]
    return wanted, reading


async def completion_requests(
    service: Service, fields: CompletionFields, receive: Receive, info: RequestInfo
) -> list[GenerationRequest]:
    """What a completion asks for, one request per prompt. Raises RequestError."""
    most, tops = fields.max_tokens, fields.logprobs
    with info.tokenizing():
        prompts = await unless_disconnected(receive, _tokenized(service, fields))
        bad_words = await unless_disconnected(receive, service.tokenizer.spellings(fields.bad_words))
    wanted = _requests(service, fields, prompts, bad_words, most, tops, info.tenant)
    if (constraint := fields.constraint()) is not None:
        grammar = await unless_disconnected(receive, service.grammars.compile(constraint))
        wanted = [replace(each, grammar=grammar) for each in wanted]
    return wanted


async def _tokenized(service: Service, fields: CompletionFields) -> dict[str, list[int]]:
    n_kept = _most_kept(service, fields, fields.max_tokens)
    prompts = dict[str, list[int]]()
    for name, each in fields.prompts.items():
        ids = await service.tokenizer.tokenize(each, is_cut=n_kept is not None) if isinstance(each, str) else each
        prompts[name] = _end_of(ids, n_kept)
    return prompts


def _most_kept(service: Service, fields: GenerationFields, max_tokens: int | None) -> int | None:
    """How many of a prompt's last tokens are used; None for all. Raises BadRequest."""
    n_kept, context = fields.truncate_prompt_tokens, service.tokenizer.context
    if n_kept != -1 or context is None:
        return None if n_kept == -1 else n_kept
    n_kept = context - (max_tokens or 1)
    if n_kept < 1:
        raise BadRequest(
            f"an answer of {max_tokens} tokens leaves no room for a prompt in this model's context of {context}; "
            "ask for fewer, or name how many tokens of the prompt to keep",
            "truncate_prompt_tokens",
        )
    return n_kept


def _end_of(ids: list[int], n_kept: int | None) -> list[int]:
    return ids if n_kept is None else ids[-n_kept:]


def _requests(
    service: Service,
    fields: GenerationFields,
    prompts: Mapping[str, list[int]],
    bad_words: Sequence[tuple[int, ...]],
    max_tokens: int | None,
    top_logprobs: int | None,
    tenant: str,
) -> list[GenerationRequest]:
    """One generation request per prompt. Raises BadRequest, which names the prompt."""
    sampling = replace(fields.sampling(top_logprobs, service.defaults.sampling), bad_words=tuple(bad_words))
    rules = fields.stop_rules
    for name, ids in prompts.items():
        if not ids:
            raise BadRequest("the prompt has no tokens", name)
        # those of texts too: a tokenizer may have more tokens than the model has embeddings
        service.check_ids(ids, name)
    service.check_ids([token for token, _ in sampling.logit_bias], "logit_bias")
    service.check_ids(fields.stop_token_ids, "stop_token_ids")
    service.check_ids(fields.allowed_token_ids or (), "allowed_token_ids")
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
    request = GenerationRequest(
        (),
        max_tokens,
        sampling,
        rules,
        tenant=tenant,
        echo=echo,
        prompt_logprobs=fields.prompt_logprobs,
        cache_salt=fields.cache_salt or "",
    )
    wanted = [replace(request, prompt=tuple(ids), param=name) for name, ids in prompts.items()]
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
