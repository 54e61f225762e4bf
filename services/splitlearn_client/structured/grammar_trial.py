"""Tries a caller's grammar in a process with limits, so that what passes can be compiled in this one."""

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import llguidance

import splitlearn_client
from splitlearn_client.confined_process import ConfinedProcess, LimitExceeded
from splitlearn_client.structured.constraint import LONGEST_SOURCE, Constraint

_WORKER: Final = Path(__file__).with_name("grammar_worker.py")
CPU_SECONDS: Final = 2.0
WALL_SECONDS: Final = 20.0
MEMORY_BYTES: Final = 1 << 30
# less than any thread of the service has, so that what overflows does it there first
STACK_BYTES: Final = 1 << 20
# of a constraint as llguidance takes it, in characters
LONGEST_GRAMMAR: Final = 1 << 20

PARSER_LIMITS: Final[dict[str, Any]] = {
    "max_grammar_size": 200_000,
    # of 1 to 2 kB each, in every answer
    "max_lexer_states": 20_000,
    # without the caller's text
    "verbose_errors": False,
}
"""llguidance's limits, the same where a grammar is tried and where it is used."""


class BadGrammar(Exception):
    """It is no grammar, no text follows it, or it exceeds the limits; with the reason, and the place in a schema."""

    def __init__(self, message: str, path: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.path = tuple(path)


class GrammarTrial:
    """Tries grammars, one at a time; callers on other threads wait.

    A grammar that exceeds the limits ends the process, and the next trial starts another. The first trial starts one.
    """

    def __init__(self, *, cpu_seconds: float = CPU_SECONDS, wall_seconds: float = WALL_SECONDS) -> None:
        self._cpu_seconds, self._wall_seconds = cpu_seconds, wall_seconds
        self._turn = threading.Lock()
        """Guards the attribute below."""
        self._process: ConfinedProcess | None = None

    def grammar(self, constraint: Constraint) -> str:
        """The constraint as a grammar of llguidance. Blocks.

        Raises:
            BadGrammar: it is none, or it exceeds the limits.
            ProcessFailed: the process ended, and the grammar is not to blame.
        """
        with self._turn:
            if self._process is None or not self._process.lives:
                self._process = self._started()
            request = {"kind": constraint.kind, "source": constraint.source}
            try:
                # a character takes at most 12 bytes in JSON; the rest is for an error
                reply = self._process.ask(request, 12 * LONGEST_GRAMMAR + LONGEST_SOURCE)
            except LimitExceeded as error:
                raise BadGrammar(f"compiling it takes too much: {error}; ask for less") from None
        if "error" in reply:
            raise BadGrammar(str(reply["error"]), reply.get("path", ()))
        return str(reply["grammar"])

    def _started(self) -> ConfinedProcess:
        limits = (MEMORY_BYTES, STACK_BYTES, self._cpu_seconds, json.dumps(PARSER_LIMITS), LONGEST_GRAMMAR)
        return ConfinedProcess(
            _WORKER,
            list(map(str, limits)),
            (llguidance, splitlearn_client),
            cpu_seconds=self._cpu_seconds,
            wall_seconds=self._wall_seconds,
        )
