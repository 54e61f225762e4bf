"""Guesses what the large model will say by another model, which runs whole in the client.

Shapes: V vocabulary.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Final

import torch

from splitlearn.backends.memory import free_bytes
from splitlearn.engine import Engine, EngineSession, Limits
from splitlearn.errors import EngineFull, PositionNotReached, SplitError
from splitlearn_client.sampling import widened
from splitlearn_client.settings import ClientSettings
from splitlearn_client.speculation.drafter import LEVELS, Guess

# guesses are not worth waiting for memory
_PATIENCE_SECONDS: Final = 1e-3
# guesses in a trip, and what is thought of beyond them; the ids behind which that was are compared as far back
_MOST_THOUGHT: Final = 16


def draft_limits(settings: ClientSettings, device: torch.device) -> Limits:
    """Of the engine of a model that guesses. Its sessions take no memory of others."""
    return Limits(
        max_num_batched_tokens=settings.max_num_batched_tokens,
        kv_cache_memory_bytes=settings.kv_cache_memory_bytes or free_bytes(device) // 8,
        max_cached_prefixes=0,
        max_waiting=settings.max_waiting,
        queue_timeout=_PATIENCE_SECONDS,
    )


class ModelDrafter:
    """Of one answer; see `Drafter`. The level grows with the model's own probability of the token.

    While a trip is away it goes on, as if all guesses were right.

    Args:
        engine: of the model that guesses.
        most_rows: that the answer may have.
    """

    def __init__(self, engine: Engine, most_rows: int) -> None:
        self._engine, self._most_rows = engine, most_rows
        self._session: EngineSession | None = None
        # whose rows the session holds; the first so many are the answer's for certain
        self._ids: list[int] = []
        self._n_certain = 0
        self._thinking: asyncio.Task[None] | None = None
        self._has_time = False
        # what was thought of meanwhile, and behind which ids
        self._thought: list[Guess] = []
        self._behind: Sequence[int] = ()

    async def guesses(self, ids: Sequence[int]) -> AsyncGenerator[Guess]:
        """The model's greedy continuation; none where there is no memory for it."""
        await self._stop_thinking()
        coming = [*ids]
        for guess in self._thought_behind(ids):
            yield guess
            coming.append(guess.token)
        async with aclosing(self._computed(coming, len(ids))) as computed:
            async for guess in computed:
                yield guess

    def away(self, ids: Sequence[int]) -> None:
        before, self._has_time, self._thought, self._behind = self._thinking, True, [], [*ids]
        self._thinking = asyncio.create_task(self._think(before, self._thought))

    async def aclose(self) -> None:
        """Frees the session's memory."""
        try:
            # nobody needs what was thought of any more
            with suppress(SplitError):
                await self._stop_thinking()
        finally:
            # also where the caller does not wait for the step that runs
            if self._session is not None:
                self._engine.close(self._session)

    async def _think(self, before: "asyncio.Task[None] | None", thought: list[Guess]) -> None:
        if before is not None:
            # the session takes one step at a time; it stops after the one that runs
            await before
        async with aclosing(self._computed([*self._behind], 0)) as computed:
            async for guess in computed:
                thought.append(guess)
                if self._thought is not thought or not self._has_time or len(thought) > _MOST_THOUGHT:
                    break

    async def _stop_thinking(self) -> None:
        """Waits for the step that runs. An error of it is raised here."""
        self._has_time = False
        if self._thinking is not None:
            thinking, self._thinking = self._thinking, None
            await thinking

    def _thought_behind(self, ids: Sequence[int]) -> list[Guess]:
        """What of it follows these ids; nothing if it was thought of behind others."""
        n_behind = len(self._behind)
        first = max(0, n_behind - _MOST_THOUGHT)
        tokens = [*self._behind[first:], *(guess.token for guess in self._thought)]
        n_known = len(ids) - first
        if len(ids) < n_behind or tokens[:n_known] != [*ids[first:]]:
            return []
        return self._thought[len(ids) - n_behind :]

    async def _computed(self, coming: list[int], n_certain: int) -> AsyncGenerator[Guess]:
        """The continuation of `coming`, of which so many ids are the answer's."""
        try:
            if self._session is None:
                self._session = self._engine.open(self._most_rows)
            while len(coming) < self._session.max_length:
                guess = await self._next(self._session, coming)
                self._n_certain = max(self._n_certain, n_certain)
                yield guess
                coming.append(guess.token)
        except EngineFull:
            return
        except PositionNotReached:
            # its memory was given to others
            self._ids, self._n_certain = [], 0

    async def _next(self, session: EngineSession, ids: list[int]) -> Guess:
        position = self._n_certain
        last = min(len(self._ids), len(ids) - 1)
        while position < last and self._ids[position] == ids[position]:
            position += 1
        position = min(position, last)
        step = await self._engine.step(session, position, torch.tensor(ids[position:]), _likeliest)
        self._ids[position:] = ids[position:]
        guess: Guess = step.postprocessed
        # a prompt says nothing of the guesses behind it
        is_one = len(ids) - position == 1
        return replace(guess, seconds=step.timing.compute_seconds) if is_one else guess


def _likeliest(logits_V: torch.Tensor) -> Guess:
    """On the device thread."""
    scores_V = widened(logits_V)
    token = int(scores_V.numpy().argmax())
    probability = float((scores_V[token] - scores_V.logsumexp(dim=0)).exp())
    # not a number: as good as no idea
    return Guess(token, min(int(probability * LEVELS), LEVELS - 1) if probability > 0 else 0)
