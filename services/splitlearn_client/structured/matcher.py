"""Which tokens may come next in an answer that follows a grammar.

Shapes: V vocabulary.
"""

import asyncio
from collections.abc import Sequence, Set
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from itertools import takewhile
from threading import Event
from typing import Final

import numpy as np
from llguidance import LLMatcher
from numpy.typing import NDArray

from splitlearn_client.errors import GrammarFailed
from splitlearn_client.structured.reasons import reason_of

Bias = NDArray[np.float32]
"""What is added to the logits, [V]: 0 for tokens that may come next, minus infinity for all others."""

_MINUS_INFINITY: Final = np.float32(-np.inf).view(np.uint32)


def bias_of(allowed_V: NDArray[np.uint8]) -> Bias:
    """By whether each token may come, 1 or 0. By bits: looking each up takes eight times as long, and choosing between
    logits and minus infinity ten times as long as adding."""
    # of 1 no bits are left, of 0 all
    bits_V = allowed_V.astype(np.uint32) - np.uint32(1)
    bits_V &= _MINUS_INFINITY
    return bits_V.view(np.float32)


@dataclass(frozen=True)
class Grammar:
    """A compiled constraint, for any number of answers.

    Attributes:
        beginning: llguidance's matcher before the first token. It is copied, and never used itself.
        known_ends: the end tokens that llguidance knows, mostly the model's own.
        param: the request's field, for errors.
        spent: set once an answer has exceeded a limit. Some of llguidance's limits are on what all copies of a matcher
            share, so that new answers would fail too: the grammar has to be compiled anew for them.
    """

    beginning: LLMatcher
    known_ends: Set[int]
    threads: Executor
    param: str
    spent: Event = field(default_factory=Event)

    def matcher(self, end_tokens: Set[int]) -> "Matcher":
        """The matcher of one answer, which these tokens end."""
        return Matcher(self, end_tokens)


class Matcher:
    """Follows one answer. Its work runs on the grammar's threads, one piece at a time.

    For each step: `look_ahead`, which begins the masks while the trunk computes; `ready`; the choice; and `advance` for
    each token that was chosen.

    Args:
        end_tokens: what may end the answer wherever the grammar lets it end.
    """

    def __init__(self, grammar: Grammar, end_tokens: Set[int]) -> None:
        self._grammar = grammar
        self._ends = np.array(sorted(end_tokens), dtype=np.int64)
        self._never = np.array(sorted(grammar.known_ends - end_tokens), dtype=np.int64)
        self._tokens: list[int] = []
        self._state: LLMatcher | None = None
        self._next: Future[tuple[Bias, ...]] | None = grammar.threads.submit(self._begin)
        self.biases: tuple[Bias, ...] = ()
        """Of the next token, and of those behind guesses, as far as the answer may go on there; none before `ready`."""

    @property
    def param(self) -> str:
        """The request's field, for errors."""
        return self._grammar.param

    async def allowed(self, guesses: Sequence[int]) -> int:
        """How many of the guesses the grammar allows in a row. Only between `advance` and `look_ahead`."""
        guesses = list(takewhile(lambda token: token not in self._grammar.known_ends, guesses))
        return await asyncio.wrap_future(self._grammar.threads.submit(self._validate, guesses))

    def look_ahead(self, guesses: Sequence[int] = ()) -> None:
        """Begins the masks of the next token and of those behind `guesses`, which have to be allowed.

        Before the answer's first token there are no guesses: its mask has begun already.
        """
        if self._next is None:
            self._next = self._grammar.threads.submit(self._masks, guesses)
        elif guesses:
            raise RuntimeError("the masks have begun without these guesses")

    async def ready(self) -> None:
        """Waits for the masks.

        Raises:
            GrammarFailed: the grammar exceeded a limit here.
        """
        if self._next is None:
            raise RuntimeError("no mask has begun")
        self.biases = await asyncio.wrap_future(self._next)

    async def advance(self, token: int) -> bool:
        """Goes on behind a token that was allowed. Whether nothing can follow it.

        Raises:
            GrammarFailed: the grammar exceeded a limit here.
        """
        self.biases, self._next = (), None
        self._tokens.append(token)
        return await asyncio.wrap_future(self._grammar.threads.submit(self._consume, token))

    def _begin(self) -> tuple[Bias, ...]:
        self._state = self._grammar.beginning.deep_copy()
        return self._masks(())

    def _validate(self, guesses: list[int]) -> int:
        n_allowed = int(self._known.validate_tokens(guesses))
        if self._known.is_error():
            self._restore()
            return 0
        return n_allowed

    def _masks(self, guesses: Sequence[int]) -> tuple[Bias, ...]:
        """Leaves the state as it was, also where a guess, and not the answer, exceeds a limit."""
        biases = [self._mask()]
        try:
            biases += self._masks_behind(guesses)
        except GrammarFailed:
            self._restore()
        return tuple(biases)

    def _masks_behind(self, guesses: Sequence[int]) -> list[Bias]:
        biases, n_consumed = [], 0
        for guess in guesses:
            n_consumed += 1
            if self._consume(guess):
                break
            biases.append(self._mask())
        if n_consumed:
            self._known.rollback(n_consumed)
            self._check()
        return biases

    def _restore(self) -> None:
        self._state = self._grammar.beginning.deep_copy()
        self._state.consume_tokens(self._tokens)
        self._check()

    def _consume(self, token: int) -> bool:
        state = self._known
        state.consume_token(token)
        self._check()
        return state.is_stopped()

    def _mask(self) -> Bias:
        state = self._known
        packed = np.frombuffer(state.compute_bitmask(), dtype=np.uint8)
        self._check()
        allowed_V = np.unpackbits(packed, bitorder="little").view(np.bool_)
        allowed_V[self._never] = False
        if state.is_accepting():
            # a file beside the weights may name an end that is no token
            allowed_V[self._ends[self._ends < allowed_V.size]] = True
        return bias_of(allowed_V.view(np.uint8))

    @property
    def _known(self) -> LLMatcher:
        if self._state is None:
            raise RuntimeError("the matcher has not begun")
        return self._state

    def _check(self) -> None:
        state = self._known
        if state.is_error():
            self._grammar.spent.set()
            reason = reason_of(state.get_error())
            raise GrammarFailed(
                f"the grammar cannot be followed behind the answer's token {len(self._tokens)}: {reason}; simplify it",
                self._grammar.param,
            )
