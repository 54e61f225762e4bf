"""Spells prompts for `echo` and `prompt_logprobs`, beside tokens that others wait for."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Final

from splitlearn_client.answer import TokenDelta, spelled_prompt
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
        spelled = spelled_prompt(self._vocabulary, ids, scored)
        alternatives = max((len(choice.alternatives) for choice in scored or ()), default=0)
        n_tokens = max(1, _AT_ONCE // (1 + alternatives))
        deltas: list[TokenDelta] = []
        while len(deltas) < len(ids):
            async with self._turn:
                began = time.perf_counter()
                deltas += await asyncio.to_thread(lambda: list(islice(spelled, n_tokens)))
                await asyncio.sleep(time.perf_counter() - began)
        entries = [entry for delta in deltas for entry in delta.logprobs]
        if entries:
            # nothing came before the first one
            entries[0] = replace(entries[0], logprob=None)
        return TokenDelta("".join(delta.text for delta in deltas), tuple(entries), n_tokens=0)
