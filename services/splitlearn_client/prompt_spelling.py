"""Spells prompts for `echo` and `prompt_logprobs`, beside tokens that others wait for."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Final

from splitlearn_client.answer import TokenDelta, TokenLogprob, spelled_prompt
from splitlearn_client.sampling import Choice
from splitlearn_client.text.vocabulary import Vocabulary

# tokens and alternatives; about a millisecond
_AT_ONCE: Final = 32


class PromptSpelling:
    """Spells prompts on a thread: some tokens of one, some of the next, and a rest as long as the work.

    All of Python's threads take turns, so that each operation of the device thread would wait for work without rests.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._turn = asyncio.Lock()

    async def delta(self, ids: Sequence[int], scored: Sequence[Choice] | None) -> TokenDelta:
        """A prompt's text, and the log-probabilities of its tokens.

        Args:
            scored: all tokens but the first, as if they had been chosen; None where nobody asked.
        """
        if scored is None:
            text = await asyncio.to_thread(self._vocabulary.decode, ids)
            return TokenDelta(text, n_tokens=0)
        entries = await self._entries(ids, scored)
        return TokenDelta("".join(entry.text for entry in entries), entries, n_tokens=0)

    async def _entries(self, ids: Sequence[int], scored: Sequence[Choice]) -> tuple[TokenLogprob, ...]:
        spelled = spelled_prompt(self._vocabulary, ids, scored)
        n_alternatives = max((len(choice.alternatives) for choice in scored), default=0)
        n_tokens = max(1, _AT_ONCE // (1 + n_alternatives))
        entries: list[TokenLogprob] = []
        for _ in range(0, len(ids), n_tokens):
            async with self._turn:
                began = time.perf_counter()
                some = await asyncio.to_thread(lambda: list(islice(spelled, n_tokens)))
                await asyncio.sleep(time.perf_counter() - began)
            entries += [entry for delta in some for entry in delta.logprobs]
        # nothing came before the first one
        return (replace(entries[0], logprob=None), *entries[1:])
