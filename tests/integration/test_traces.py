"""One request's spans over the client service and all stages, as a collector receives them."""

import json
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from support.running_split import running_client, running_split, running_trunk, until
from support.span_collector import Seen, SpanCollector, span_collector

WORDS = "the quick brown fox"
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADERS = {"X-Request-Id": "req-1", "traceparent": f"00-{TRACE}-{CALLER}-01"}


async def traced(weights: Path, collector: SpanCollector, **fields: Any) -> list[Seen]:
    """The spans of one request through a chain of two stages, its caller's trace being TRACE."""
    async with AsyncExitStack() as stack:
        endpoint = {"otlp_traces_endpoint": collector.url}
        last = await stack.enter_async_context(running_trunk(weights, "2-4", **endpoint))
        first = await stack.enter_async_context(running_trunk(weights, "1-2", next=last.address, **endpoint))
        client = await stack.enter_async_context(running_client(weights, first.address, **endpoint))
        await client.ready()
        body = {"model": "tiny", "prompt": WORDS, "max_tokens": 3, "temperature": 0, **fields}
        response = await client.http.post("/v1/completions", json=body, headers=HEADERS)
        assert response.status_code == 200
        await until(lambda: first.open_sessions == last.open_sessions == 0)
    # services export what is left when they end
    return collector.spans


async def test_one_request_is_one_trace_over_client_and_stages_with_the_right_parents(tiny_weights: Path) -> None:
    with span_collector() as collector:
        spans = await traced(tiny_weights, collector)
    assert {span.trace for span in spans} == {TRACE}
    (request,) = collector.named("llm_request")
    sessions = {span.attributes["splitlearn.layers"]: span for span in collector.named("trunk_session")}
    parents = {span.span: span.name for span in spans} | {CALLER: "caller"}
    assert sorted((span.service, span.name, parents[span.parent]) for span in spans) == [
        ("splitlearn-client", "decode", "llm_request"),
        ("splitlearn-client", "llm_request", "caller"),
        ("splitlearn-client", "prefill", "llm_request"),
        ("splitlearn-client", "tokenize", "llm_request"),
        ("splitlearn-trunk", "trunk_session", "llm_request"),
        ("splitlearn-trunk", "trunk_session", "trunk_session"),
    ]
    assert (sessions["1-2"].parent, sessions["2-4"].parent) == (request.span, sessions["1-2"].span)
    assert len({span.attributes["splitlearn.session"] for span in (request, *sessions.values())}) == 1


async def test_the_children_of_a_request_lie_in_it_one_after_the_other(tiny_weights: Path) -> None:
    with span_collector() as collector:
        await traced(tiny_weights, collector)
    (request,), (tokenize,), (prefill,), (decode,) = map(
        collector.named, ("llm_request", "tokenize", "prefill", "decode")
    )
    # each time is converted by itself, from another clock
    slack = 1_000_000
    times = [request.began, tokenize.began, tokenize.ended, prefill.began, prefill.ended, decode.began, decode.ended]
    times.append(request.ended)
    assert all(earlier <= later + slack for earlier, later in pairwise(times)), times


async def test_a_span_says_what_the_conventions_ask_for_and_never_what_was_said(tiny_weights: Path) -> None:
    with span_collector() as collector:
        spans = await traced(tiny_weights, collector)
    (request,) = collector.named("llm_request")
    expected = {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "splitlearn",
        "gen_ai.request.model": "tiny",
        "gen_ai.request.max_tokens": 3,
        "gen_ai.request.temperature": 0.0,
        "gen_ai.request.id": "req-1",
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.response.finish_reasons": ["length"],
        "splitlearn.failovers": 0,
    }
    assert {name: request.attributes[name] for name in expected} == expected
    assert request.attributes["gen_ai.usage.input_tokens"] > 3
    assert request.attributes["gen_ai.latency.time_to_first_token"] > 0
    sessions = collector.named("trunk_session")
    assert all(span.attributes["splitlearn.compute_seconds"] > 0 for span in sessions)
    assert not any(word in json.dumps([vars(span) for span in spans]) for word in WORDS.split())


async def test_a_request_that_fails_has_a_span_with_its_error(tiny_weights: Path) -> None:
    with span_collector() as collector:
        async with running_split(tiny_weights, otlp_traces_endpoint=collector.url) as split:
            await split.trunk.server.stop()
            await until(lambda: not split.client.is_ready)
            assert (await split.client.complete(prompt=WORDS)).status_code == 503
    (request,) = collector.named("llm_request")
    assert (request.failed, request.attributes["error.type"], request.parent) == (True, "trunk_not_ready", "")


@pytest.mark.parametrize("header", ["", "nonsense", f"00-{'0' * 32}-{CALLER}-01"])
async def test_without_a_caller_s_trace_a_request_begins_one(tiny_weights: Path, header: str) -> None:
    with span_collector() as collector:
        async with running_split(tiny_weights, otlp_traces_endpoint=collector.url) as split:
            headers = {"traceparent": header} if header else {}
            body = {"model": "tiny", "prompt": WORDS, "max_tokens": 1}
            assert (await split.client.http.post("/v1/completions", json=body, headers=headers)).status_code == 200
    (request,) = collector.named("llm_request")
    assert request.parent == ""
    assert {span.trace for span in collector.spans} == {request.trace}
