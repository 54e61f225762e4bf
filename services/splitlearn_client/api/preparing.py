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
    with info.tokenizing():
        prompt = await unless_disconnected(receive, service.tokenizer.tokenize_chat(messages, fields.rendering))
    tops = (fields.top_logprobs or 0) if fields.logprobs else None
    most = fields.max_completion_tokens or fields.max_tokens or service.defaults.max_tokens
    ending = await service.tokenizer.detokenize(prompt) if service.dialect.responses else None
    prefix = prefix_of(fields, service.tokenizer.ending(prompt) if ending is None else ending)
    reading = reading_of(fields, service.dialect, prefix)
    wanted = requests(service, fields, {"messages": prompt}, most, tops, info.tenant)
    if reading is not None:
        wanted = [replace(each, shown=reading.shown) for each in wanted]
    if (constraint := constraint_of(fields, service.dialect, prefix)) is not None:
        grammar = await unless_disconnected(receive, service.grammars.compile(constraint))
        wanted = [replace(each, grammar=grammar) for each in wanted]
    return wanted, reading


def requests(
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
