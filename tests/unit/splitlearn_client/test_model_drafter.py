"""A model's guesses are its own greedy text, whatever was thought of meanwhile."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from splitlearn.build import build_engine
from splitlearn.checkpoints.load import load_part
from splitlearn.engine import DeviceThread, Engine
from splitlearn_client.model_drafter import ModelDrafter
from support.running_split import until
from support.tiny_models import N_LAYERS, VOCABULARY

PROMPT = list(range(3, 20))
MOST_ROWS = 60


def greedy(model: PreTrainedModel, prompt: list[int], n: int) -> list[int]:
    ids = torch.tensor([prompt])
    options = {"max_new_tokens": n, "min_new_tokens": n, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    found: list[int] = model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0].tolist()
    return found[len(prompt) :]


@pytest.fixture
async def engine(tiny_weights: Path) -> AsyncIterator[Engine]:
    with DeviceThread(1) as thread:
        yield build_engine(load_part(tiny_weights, f"b 0-{N_LAYERS} e"), thread)


async def guessed(drafter: ModelDrafter, ids: list[int], n: int) -> list[int]:
    found: list[int] = []
    async with aclosing(drafter.guesses(ids)) as coming:
        async for guess in coming:
            found.append(guess.token)
            if len(found) == n:
                break
    return found


async def test_guesses_are_the_model_s_greedy_text(engine: Engine, tiny_llama: PreTrainedModel) -> None:
    drafter = ModelDrafter(engine, MOST_ROWS)
    assert await guessed(drafter, PROMPT, 6) == greedy(tiny_llama, PROMPT, 6)
    await drafter.aclose()
    assert engine.pages.used == 0


@pytest.mark.parametrize("is_away", [False, True])
async def test_right_and_wrong_guesses_change_nothing_of_what_follows(
    engine: Engine, tiny_llama: PreTrainedModel, is_away: bool
) -> None:
    dice, drafter, ids = random.Random(3), ModelDrafter(engine, MOST_ROWS), [*PROMPT]
    for _ in range(12):
        n = dice.randint(1, 4)
        found = await guessed(drafter, ids, n)
        assert found == greedy(tiny_llama, ids, n)
        if is_away:
            drafter.away([*ids, *found])
        # some of them were right, and then comes what the large model says
        n_right = dice.randint(0, n)
        likeliest = greedy(tiny_llama, [*ids, *found[:n_right]], 1)[0]
        ids += [*found[:n_right], likeliest if dice.random() < 0.5 else dice.randrange(3, VOCABULARY)]
        # it is not asked before each token
        ids += [dice.randrange(3, VOCABULARY) for _ in range(dice.randint(0, 2))]
        if len(ids) + 5 > MOST_ROWS:
            break
    await drafter.aclose()


async def test_a_trip_that_begins_while_the_thoughts_of_the_last_one_run_on_takes_their_place(
    engine: Engine, tiny_llama: PreTrainedModel
) -> None:
    drafter, ids = ModelDrafter(engine, MOST_ROWS), [*PROMPT]
    drafter.away(ids)
    # the first thought is under way
    await until(lambda: engine.pages.used > 0)
    for token in (7, 8, 9):
        ids.append(token)
        drafter.away(ids)
    assert await guessed(drafter, ids, 4) == greedy(tiny_llama, ids, 4)
    await drafter.aclose()
    assert engine.pages.used == 0


async def test_what_was_thought_of_while_a_trip_was_away_is_not_computed_again(
    engine: Engine, tiny_llama: PreTrainedModel
) -> None:
    drafter = ModelDrafter(engine, MOST_ROWS)
    first = await guessed(drafter, PROMPT, 2)
    drafter.away([*PROMPT, *first])
    following = greedy(tiny_llama, [*PROMPT, *first], 4)
    await until(lambda: len(drafter._thought) >= len(following))
    # the token behind the guesses is its own guess too, and no step gives the others
    drafter._engine = None  # type: ignore[assignment]
    assert await guessed(drafter, [*PROMPT, *first, following[0]], 3) == following[1:]


async def test_its_memory_is_freed_also_where_the_caller_does_not_wait_for_the_step_that_runs(engine: Engine) -> None:
    drafter = ModelDrafter(engine, MOST_ROWS)
    await guessed(drafter, PROMPT, 2)
    drafter.away(PROMPT)
    closing = asyncio.create_task(drafter.aclose())
    # now it waits
    await asyncio.sleep(0)
    closing.cancel()
    with suppress(asyncio.CancelledError):
        await closing
    assert closing.cancelled()
    await until(lambda: engine.pages.used == 0)


async def test_a_session_whose_memory_was_taken_guesses_nothing_once_and_then_goes_on(
    engine: Engine, tiny_llama: PreTrainedModel
) -> None:
    drafter = ModelDrafter(engine, MOST_ROWS)
    await guessed(drafter, PROMPT, 2)
    engine.expire(0.0)
    ids = [*PROMPT, 5]
    assert await guessed(drafter, ids, 3) in ([], greedy(tiny_llama, ids, 3))
    assert await guessed(drafter, [*ids, 6], 3) == greedy(tiny_llama, [*ids, 6], 3)
    await drafter.aclose()
