"""Whose turn it is to have a long body read, so that reading bodies leaves the event loop most of its time.

Parsing and checking a body holds the loop, in a thread as well, because it holds the interpreter's lock. So long bodies
are read one after the other, and after each the loop rests. The less a body costs, the earlier its turn.
"""

import asyncio
import time
from heapq import heappop, heappush
from itertools import count
from typing import Final

SHORT: Final = 1000
"""Up to this cost a body is read at once: a few thousandths of a second."""
# of a text; as many take as long as a value
_BYTES_OF_A_VALUE: Final = 512
# a rest, as a multiple of the time that the body before it took
_RESTS: Final = 1
# for each unit of cost, how long a body lets those go before that come later and cost nothing
_SECONDS_OF_COST: Final = 2e-4


def cost_of(body: bytes) -> int:
    """About how many values a body has, or how long its texts are; more than its JSON has."""
    return sum(map(body.count, (b",", b"[", b"{"))) + len(body) // _BYTES_OF_A_VALUE


class BodyTurns:
    """The queue of long bodies."""

    def __init__(self) -> None:
        self._queue: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = count()
        self._is_taken = False

    def enter(self, cost: int) -> "asyncio.Future[None]":
        """Is done when it is this body's turn. Then `begin` or `leave` has to be called."""
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        heappush(self._queue, (loop.time() + cost * _SECONDS_OF_COST, next(self._numbers), turn))
        if not self._is_taken:
            self._next()
        return turn

    def leave(self, turn: "asyncio.Future[None]") -> None:
        """Gives up a place in the queue, or a turn that was not used."""
        if turn.done() and not turn.cancelled():
            self._next()
        turn.cancel()

    def begin(self) -> None:
        """Reads the body in this step of the loop: all that the caller does before it waits for something."""
        asyncio.get_running_loop().call_soon(self._rest, time.perf_counter())

    def _rest(self, began: float) -> None:
        asyncio.get_running_loop().call_later(_RESTS * (time.perf_counter() - began), self._next)

    def _next(self) -> None:
        self._is_taken = False
        while self._queue:
            *_, turn = heappop(self._queue)
            # those who have left are done
            if not turn.done():
                self._is_taken = True
                turn.set_result(None)
                return
