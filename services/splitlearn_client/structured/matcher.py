"""Which tokens may come next in an answer that follows a grammar.

Shapes: V vocabulary.
"""

import asyncio
from collections.abc import Set
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Final

import numpy as np
from llguidance import LLMatcher
from numpy.typing import NDArray

from splitlearn_client.errors import GrammarFailed

Bias = NDArray[np.float32]
"""What is added to the logits, [V]: 0 for tokens that may come next, minus infinity for all others."""

# by whether a token may come; choosing between two arrays takes ten times as long as adding one
BIASES: Final = np.array([-np.inf, 0], dtype=np.float32)


@dataclass(frozen=True)
class Grammar:
    """A compiled constraint, for any number of answers.

    Attributes:
        beginning: llguidance's matcher before the first token. It is copied, and never used itself.
        known_ends: the end tokens that llguidance knows, mostly the model's own.
        param: the request's field, for errors.
    """

    beginning: LLMatcher
    known_ends: Set[int]
    threads: Executor
    param: str

    def matcher(self, end_tokens: Set[int]) -> "Matcher":
        """The matcher of one answer, which these tokens end."""
        return Matcher(self, end_tokens)


class Matcher:
    """Follows one answer. Its work runs on the grammar's threads, one piece at a time.

    The mask of the next token is begun as soon as a token is chosen, so that it is there before the logits are.

    Args:
        end_tokens: what may end the answer wherever the grammar lets it end.
    """

    def __init__(self, grammar: Grammar, end_tokens: Set[int]) -> None:
        self._grammar = grammar
        self._ends = np.array(sorted(end_tokens), dtype=np.int64)
        self._never = np.array(sorted(grammar.known_ends - end_tokens), dtype=np.int64)
        self._n_tokens = 0
        self._state: LLMatcher | None = None
        self._next: Future[Bias] = grammar.threads.submit(self._begin)
        self.bias: Bias | None = None
        """Of the next token; None before `ready`."""

    @property
    def param(self) -> str:
        """The request's field, for errors."""
        return self._grammar.param

    async def ready(self) -> None:
        """Waits for the mask of the next token.

        Raises:
            GrammarFailed: the grammar exceeded a limit here.
        """
        if self.bias is None:
            self.bias = await asyncio.wrap_future(self._next)

    async def advance(self, token: int) -> bool:
        """Goes on behind a token that was allowed. Whether nothing can follow it.

        Raises:
            GrammarFailed: the grammar exceeded a limit here.
        """
        self.bias = None
        self._n_tokens += 1
        is_complete = await asyncio.wrap_future(self._grammar.threads.submit(self._consume, token))
        self._next = self._grammar.threads.submit(self._mask)
        return is_complete

    def _begin(self) -> Bias:
        self._state = self._grammar.beginning.deep_copy()
        return self._mask()

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
        return BIASES[allowed_V.view(np.uint8)]

    @property
    def _known(self) -> LLMatcher:
        if self._state is None:
            raise RuntimeError("the matcher has not begun")
        return self._state

    def _check(self) -> None:
        state = self._known
        if state.is_error():
            reason = " ".join(state.get_error().removesuffix("<non-verbose/>").split())
            raise GrammarFailed(
                f"the grammar cannot be followed behind the answer's token {self._n_tokens}: {reason}; simplify it",
                self._grammar.param,
            )
