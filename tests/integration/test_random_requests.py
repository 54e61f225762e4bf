"""Random requests of all kinds: with guesses the answers are the same as without, over links that break."""

import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from splitlearn.backends.cpu.kernels import kernels
from splitlearn_client.speculation.draft_length import DraftLength
from support.both_sides import Found, Reply, compare, first_difference
from support.every_guess import takes
from support.far_link import Network, far_link
from support.random_requests import CHAT, COMPLETION, Material, Request, next_turn, random_request
from support.request_material import material_of
from support.running_split import RunningClient, running_client, running_trunk

needs_kernels = pytest.mark.skipif(kernels() is None, reason="no C compiler at installation, or no AVX2 with FMA")

TESTS = Path(__file__).parents[1]
DEMO = TESTS.parent / "deploy" / "demo_model"
AGENT = TESTS / "clients" / "agent_model" / "weights"
N_REQUESTS = {DEMO: 240, AGENT: 60}
N_AT_ONCE = 8
MATERIAL = Material("tiny", [("Who?", "A name that is long enough.")], 380, 512)


@asynccontextmanager
async def far_client(weights: Path, name: str, **settings: Any) -> AsyncIterator[RunningClient]:
    """A client whose trunk is behind a link that breaks, and behind one that does not if that is broken."""
    whole = Network(0.002, jitter=0.001, seed=name)
    async with AsyncExitStack() as stack:
        trunk = await stack.enter_async_context(running_trunk(weights))
        port = int(trunk.address.rsplit(":", 1)[1])
        networks = (replace(whole, breaks_after=2.0), whole)
        links = [await stack.enter_async_context(far_link(port, each)) for each in networks]
        addresses = ",".join(link.address for link in links)
        client = await stack.enter_async_context(running_client(weights, addresses, **settings))
        await client.ready()
        yield client


@needs_kernels
@pytest.mark.parametrize("weights", N_REQUESTS, ids=["demo", "agent"])
async def test_answers_to_random_requests_are_the_same_with_guesses_and_without(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DraftLength, "takes", takes)
    # short answers, so that many are had in a minute
    material = replace(material_of(weights, "tiny"), longest=24)
    async with (
        far_client(weights, "plain") as plain,
        far_client(weights, "guessing", speculative_method="ngram") as guessing,
    ):
        drawn = (random_request(0, number, material) for number in count())
        found = await compare(plain.http, guessing.http, drawn, N_AT_ONCE, N_REQUESTS[weights])
    assert not found.problems, json.dumps(found.problems)
    assert found.n_same > 0.8 * N_REQUESTS[weights]
    assert found.told["draft_tokens"] > found.told["accepted_draft_tokens"] > 0
    assert found.told["failovers"] > 0


def test_a_seed_gives_the_same_requests_and_they_are_of_all_kinds() -> None:
    material = replace(MATERIAL, tools=[[{"type": "function", "function": {"name": "look"}}]], has_system=True)
    drawn = [random_request(1, number, material) for number in range(2000)]
    assert drawn == [random_request(1, number, material) for number in range(2000)]
    assert drawn != [random_request(2, number, material) for number in range(2000)]
    kinds = Counter(kind for request in drawn for kind in request.kinds)
    wanted = (
        "temperature top_p top_k min_p frequency_penalty presence_penalty repetition_penalty logit_bias greedy "
        "allowed_token_ids bad_words logprobs top_logprobs prompt_logprobs echo n best_of min_tokens stop "
        "stop_token_ids ignore_eos include_stop_str_in_output return_token_ids cache_salt truncate_prompt_tokens "
        "stream regex choice json json_object json_schema response_format tools tool_choice"
    )
    assert {name: kinds[name] for name in (CHAT, COMPLETION, "prompt of ids", *wanted.split()) if kinds[name] < 5} == {}


def test_a_conversation_goes_on_with_what_was_answered() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    asked = {"role": "user", "content": "Who?"}
    chat = Request(1, CHAT, {"messages": [asked], "seed": 1}, ("And?", "So?"))
    second = next_turn(chat, "Me.", [call])
    assert second is not None
    assert [message["role"] for message in second.body["messages"]] == ["user", "assistant", "tool", "user"]
    assert second.body["messages"][1]["content"] == "Me."
    third = next_turn(second, "I.")
    assert third is not None
    assert third.body["messages"][-1] == {"role": "user", "content": "So?"}
    assert next_turn(third, "") is None
    completion = next_turn(Request(1, COMPLETION, {"prompt": "a"}, ("c",)), "b")
    assert completion is not None
    assert completion.body["prompt"] == "ab c"


@pytest.mark.parametrize(
    ("one", "other", "at"),
    [
        ({"a": [1, {"b": 2.0}]}, {"a": [1, {"b": 2.5}]}, ["a", 1, "b"]),
        ({"a": 1}, {"a": 1, "b": 2}, ["b"]),
        ([1, 2], [1, 2, 3], [2]),
        ({"a": 1}, {"a": True}, ["a"]),
        ("x", None, []),
    ],
)
def test_the_first_place_is_found_where_two_answers_differ(one: Any, other: Any, at: list[Any]) -> None:
    difference = first_difference(one, other)
    assert difference is not None
    assert difference["at"] == at
    assert first_difference(one, one) is None


@pytest.mark.parametrize(
    ("plain", "guessing", "counted"),
    [
        (Reply(200, {"text": "a"}), Reply(200, {"text": "a"}), "n_same"),
        (Reply(200, {"text": "a"}), Reply(200, {"text": "b"}), "n_different"),
        (Reply(400, {"error": "no"}), Reply(400, {"error": "no"}), "n_refused"),
        (Reply(400, {"error": "no"}), Reply(400, {"error": "never"}), "n_different"),
        (Reply(200, {"text": "a"}), Reply(400, {"error": "no"}), "n_failed"),
        (Reply(503, {"error": "busy"}), Reply(503, {"error": "busy"}), "n_failed"),
        (Reply(429, {"error": "busy"}), Reply(429, {"error": "busy"}), "n_failed"),
        (Reply(0, {}), Reply(0, {}), "n_failed"),
    ],
)
def test_only_refusals_that_are_alike_are_no_problem(plain: Reply, guessing: Reply, counted: str) -> None:
    found = Found()
    found.add(random_request(0, 0, MATERIAL), plain, guessing)
    assert getattr(found, counted) == found.n_requests == 1
    assert bool(found.problems) == (counted in ("n_different", "n_failed"))
