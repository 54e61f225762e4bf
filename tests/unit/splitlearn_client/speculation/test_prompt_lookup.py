import asyncio
import random
from collections.abc import Sequence
from contextlib import aclosing

import pytest

from splitlearn_client.speculation.drafter import LEVELS, Guess
from splitlearn_client.speculation.prompt_lookup import PromptLookup


def drafted(lookup: PromptLookup, ids: Sequence[int], most: int = 7) -> list[Guess]:
    async def taken() -> list[Guess]:
        found: list[Guess] = []
        async with aclosing(lookup.guesses(ids)) as coming:
            async for guess in coming:
                found.append(guess)
                if len(found) == most:
                    break
        return found

    return asyncio.run(taken())


def guesses(ids: Sequence[int], most: int = 7) -> list[int]:
    return [guess.token for guess in drafted(PromptLookup(), ids, most)]


def test_what_followed_the_last_tokens_before_is_guessed() -> None:
    assert guesses([1, 2, 3, 4, 5, 6, 9, 1, 2], 4) == [3, 4, 5, 6]


def test_the_longest_match_wins_and_of_those_the_latest() -> None:
    assert guesses([5, 1, 2, 7, 1, 2, 8, 6, 5, 1, 2], 1) == [7]
    assert guesses([1, 2, 7, 1, 2, 8, 1, 2], 1) == [8]


@pytest.mark.parametrize("ids", [[], [1], [1, 1], [1, 2, 3], [1, 2, 3, 4, 3], [1, 2, 9, 3, 2]])
def test_without_two_tokens_that_stood_together_before_nothing_is_guessed(ids: list[int]) -> None:
    assert guesses(ids) == []


def test_a_text_that_repeats_itself_goes_on_so() -> None:
    assert guesses([4, 4, 4]) == [4] * 7
    assert guesses([1, 2, 3, 1, 2, 3, 1, 2]) == [3, 1, 2, 3, 1, 2, 3]


def test_the_level_grows_with_the_match() -> None:
    text = list(range(100, 140))
    levels = [drafted(PromptLookup(), [*text, 0, *text[:n]], 1)[0].level for n in range(2, 40)]
    assert levels == sorted(levels)
    assert {*levels} == {*range(LEVELS)}


def test_an_answer_that_grows_is_looked_up_as_if_it_were_new() -> None:
    dice, growing = random.Random(1), PromptLookup()
    ids = [dice.randrange(4) for _ in range(5)]
    for _ in range(200):
        ids += [dice.randrange(4) for _ in range(dice.randint(1, 4))]
        assert drafted(growing, ids) == drafted(PromptLookup(), ids)


def test_guesses_are_those_of_a_search_by_hand() -> None:
    dice = random.Random(2)
    for _ in range(300):
        ids = [dice.randrange(3) for _ in range(dice.randint(3, 40))]
        best = max(
            (
                (length, end)
                for end in range(1, len(ids))
                for length in range(2, min(32, end) + 1)
                if ids[end - length : end] == ids[len(ids) - length :]
            ),
            default=None,
        )
        expected = [] if best is None else ids[best[1] : best[1] + 1]
        assert guesses(ids, 1) == expected, ids


def test_a_long_text_is_looked_up_as_far_back_as_the_bound() -> None:
    far = [7, 8, 9, *([0] * (1 << 16)), 7, 8]
    assert guesses(far, 1) == []
    assert guesses([7, 8, 9, *([0] * ((1 << 16) - 10)), 7, 8], 1) == [9]
