"""Shapes: V vocabulary."""

from collections.abc import AsyncIterator, Set
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from llguidance import LLMatcher, LLParserLimits

from splitlearn_client.errors import GrammarFailed
from splitlearn_client.structured.grammar_trial import PARSER_LIMITS
from splitlearn_client.structured.matcher import Grammar, Matcher
from support.followed import BYTES

END = 256
OTHER_END = ord("!")


@pytest.fixture
async def threads() -> AsyncIterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as running:
        yield running


def matcher(threads: ThreadPoolExecutor, regex: str, ends: Set[int] = frozenset({END})) -> Matcher:
    limits = LLParserLimits(**PARSER_LIMITS)
    beginning = LLMatcher(BYTES, LLMatcher.grammar_from_regex(regex), log_level=0, limits=limits)
    return Grammar(beginning, frozenset({END}), threads, "structured_outputs.regex").matcher(ends)


async def allowed(followed: Matcher) -> set[int]:
    await followed.ready()
    assert followed.bias is not None
    return set(np.flatnonzero(followed.bias == 0).tolist())


async def follow(followed: Matcher, text: str) -> None:
    for byte in text.encode():
        assert byte in await allowed(followed)
        await followed.advance(byte)


async def test_what_may_come_follows_the_tokens_that_came(threads: ThreadPoolExecutor) -> None:
    followed = matcher(threads, "ab?c")
    assert await allowed(followed) == {ord("a")}
    assert not await followed.advance(ord("a"))
    assert await allowed(followed) == {ord("b"), ord("c")}
    assert await followed.advance(ord("c"))


async def test_the_end_is_allowed_where_the_text_may_end(threads: ThreadPoolExecutor) -> None:
    followed = matcher(threads, "ab*")
    assert END not in await allowed(followed)
    await followed.advance(ord("a"))
    assert await allowed(followed) == {ord("b"), END}


async def test_the_tokens_that_end_this_answer_take_the_place_of_the_models(threads: ThreadPoolExecutor) -> None:
    followed = matcher(threads, "ab*", frozenset({OTHER_END}))
    assert await allowed(followed) == {ord("a")}
    await followed.advance(ord("a"))
    assert await allowed(followed) == {ord("b"), OTHER_END}
    endless = matcher(threads, "ab*", frozenset())
    await allowed(endless)
    await endless.advance(ord("a"))
    assert await allowed(endless) == {ord("b")}


async def test_answers_of_one_grammar_do_not_know_each_other(threads: ThreadPoolExecutor) -> None:
    first = matcher(threads, "ab")
    second = Matcher(first._grammar, frozenset({END}))
    await allowed(first)
    await first.advance(ord("a"))
    assert await allowed(second) == {ord("a")}
    assert await allowed(first) == {ord("b")}


async def test_a_mask_is_not_known_before_it_was_waited_for(threads: ThreadPoolExecutor) -> None:
    followed = matcher(threads, "ab")
    assert followed.bias is None
    await followed.ready()
    await followed.advance(ord("a"))
    assert followed.bias is None


async def test_a_limit_that_is_exceeded_on_the_way_is_an_error_with_the_field(threads: ThreadPoolExecutor) -> None:
    followed = matcher(threads, "((a{1,1000}){1,1000}){1,1000}")
    with pytest.raises(GrammarFailed, match="behind the answer's token") as failed:
        await follow(followed, 1000 * "a")
    assert failed.value.param == "structured_outputs.regex"
