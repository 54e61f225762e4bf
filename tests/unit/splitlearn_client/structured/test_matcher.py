"""Shapes: V vocabulary."""

from collections.abc import AsyncIterator, Set
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from llguidance import LLMatcher, LLParserLimits

from splitlearn_client.errors import GrammarFailed
from splitlearn_client.structured.grammar_trial import PARSER_LIMITS
from splitlearn_client.structured.matcher import Grammar, Matcher, bias_of
from support.followed import BYTES

END = 256
OTHER_END = ord("!")


@pytest.fixture
async def threads() -> AsyncIterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as running:
        yield running


def compiled(threads: ThreadPoolExecutor, source: str) -> Grammar:
    beginning = LLMatcher(BYTES, source, log_level=0, limits=LLParserLimits(**PARSER_LIMITS))
    return Grammar(beginning, frozenset({END}), threads, "structured_outputs.regex")


def matcher(threads: ThreadPoolExecutor, regex: str, ends: Set[int] = frozenset({END})) -> Matcher:
    return compiled(threads, LLMatcher.grammar_from_regex(regex)).matcher(ends)


async def allowed(followed: Matcher) -> set[int]:
    [mask] = await masks(followed)
    return mask


async def masks(followed: Matcher, guesses: str = "") -> list[set[int]]:
    """What may come next, and behind the guesses."""
    followed.look_ahead(list(guesses.encode()))
    await followed.ready()
    return [set(np.flatnonzero(bias == 0).tolist()) for bias in followed.biases]


async def follow(followed: Matcher, text: str) -> None:
    for byte in text.encode():
        assert byte in await allowed(followed)
        await followed.advance(byte)


async def follow_chosen(followed: Matcher, text: str) -> None:
    """Goes on by tokens whose masks were asked for."""
    for byte in text.encode():
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
    assert not followed.biases
    await followed.ready()
    await followed.advance(ord("a"))
    assert not followed.biases
    with pytest.raises(RuntimeError, match="no mask has begun"):
        await followed.ready()


async def test_a_mask_is_known_behind_each_guess_and_the_state_stays(threads: ThreadPoolExecutor) -> None:
    followed = matcher(threads, "a(b|cd)e*f")
    await follow(followed, "a")
    expected = [{ord("b"), ord("c")}, {ord("d")}, {ord("e"), ord("f")}, {ord("e"), ord("f")}]
    assert await masks(followed, "cde") == expected
    await follow_chosen(followed, "b")
    assert await allowed(followed) == {ord("e"), ord("f")}


async def test_behind_a_guess_that_completes_the_answer_there_is_no_mask(threads: ThreadPoolExecutor) -> None:
    followed = matcher(threads, "abc")
    await follow(followed, "a")
    assert len(await masks(followed, "bc")) == 2
    await follow_chosen(followed, "b")
    assert await allowed(followed) == {ord("c")}


async def test_guesses_are_allowed_up_to_the_first_that_the_grammar_rules_out(threads: ThreadPoolExecutor) -> None:
    followed = matcher(threads, "ab+c")
    await follow(followed, "a")
    for guesses, n_allowed in (("bbc", 3), ("bbx", 2), ("x", 0), ("bcb", 2), ("", 0)):
        assert await followed.allowed(list(guesses.encode())) == n_allowed
    assert await followed.allowed([ord("b"), END, ord("b")]) == 1
    assert await allowed(followed) == {ord("b")}


async def test_guesses_come_before_the_mask_is_begun(threads: ThreadPoolExecutor) -> None:
    followed = matcher(threads, "ab")
    with pytest.raises(RuntimeError, match="without these guesses"):
        followed.look_ahead([ord("a")])


async def test_a_limit_that_a_guess_exceeds_changes_nothing_for_the_answer(threads: ThreadPoolExecutor) -> None:
    # the more `a`, the more ways there are to read them
    ambiguous = LLMatcher.grammar_from_lark('start: "x" (e | "b"*)\ne: e e | "a" | e e e | e e e e | "a" e "a"?')
    grammar = compiled(threads, ambiguous)
    followed = grammar.matcher(frozenset({END}))
    await follow(followed, "x")
    assert len(await masks(followed, 300 * "a")) < 300
    assert grammar.spent.is_set()
    await follow_chosen(followed, "b")
    assert await allowed(followed) == {ord("b"), END}


async def test_a_limit_that_is_exceeded_on_the_way_is_an_error_with_the_field(threads: ThreadPoolExecutor) -> None:
    followed = matcher(threads, "((a{1,1000}){1,1000}){1,1000}")
    with pytest.raises(GrammarFailed, match="behind the answer's token") as failed:
        await follow(followed, 1000 * "a")
    assert failed.value.param == "structured_outputs.regex"


async def test_a_grammar_that_an_answer_has_used_up_is_known_as_spent(threads: ThreadPoolExecutor) -> None:
    # what its answers share, llguidance keeps in one place
    grammar = compiled(threads, LLMatcher.grammar_from_regex("((a{1,1000}){1,1000}){1,1000}"))
    assert not grammar.spent.is_set()
    with pytest.raises(GrammarFailed):
        await follow(grammar.matcher(frozenset({END})), 1000 * "a")
    assert grammar.spent.is_set()


def test_what_is_added_is_nothing_for_tokens_that_may_come_and_minus_infinity_for_all_others() -> None:
    assert bias_of(np.array([0, 1, 1, 0], dtype=np.uint8)).tolist() == [-np.inf, 0, 0, -np.inf]
