"""Takes answers apart in a separate process, by a tokenizer's response template or its older response schema."""

import json
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any, Final, Literal

import huggingface_hub
import numpy
import regex
import transformers

import splitlearn_client
from splitlearn_client.confined_process import ConfinedProcess, LimitExceeded, ResultTooDeep, process_failed
from splitlearn_client.errors import ResponseTemplateFailed
from splitlearn_client.parsing.responses import AnswerMismatch

Kind = Literal["template", "schema"]

_WORKER: Final = Path(__file__).with_name("response_worker.py")
CPU_SECONDS: Final = 2.0
"""For one piece of an answer; a piece of a word takes some ten millionths."""
ANSWER_SECONDS: Final = 10.0
"""For all pieces of one answer."""
# By the clock, for a process that is hardly scheduled; the first piece waits for transformers to be imported.
WALL_SECONDS: Final = 60.0
MEMORY_BYTES: Final = 1 << 30
# of what a piece of an answer became: all of a long answer may come at its end
_LONGEST_REPLY: Final = 1 << 26


class ResponseUnusable(Exception):
    """The template or the schema is none; with the reason."""


@lru_cache(maxsize=4)
def response_process(kind: Kind, source: str) -> "ResponseProcess":
    """The process of a template or a schema as JSON, shared by all services with the same one."""
    return ResponseProcess(kind, source)


class ResponseProcess:
    """Takes answers apart, one piece at a time; callers on other threads wait.

    What exceeds its limits ends the process. The next piece starts another, to which the other answers that are under
    way are fed anew. The process ends with this object.
    """

    def __init__(
        self,
        kind: Kind,
        source: str,
        *,
        cpu_seconds: float = CPU_SECONDS,
        answer_seconds: float = ANSWER_SECONDS,
        wall_seconds: float = WALL_SECONDS,
    ) -> None:
        self.threads = ThreadPoolExecutor(1, "response")
        """Where pieces are read: a thread that waits for the process."""
        self._kind, self._source = kind, source
        self._cpu_seconds, self._answer_seconds, self._wall_seconds = cpu_seconds, answer_seconds, wall_seconds
        self._numbers = count()
        self._ended = deque[int]()
        """Answers that are no longer read, which the process does not know yet."""
        self._turn = threading.Lock()
        """Guards the attributes below."""
        self._process: ConfinedProcess | None = None
        self._n_started = 0

    def start(self) -> None:
        """Reads the template or the schema, unless it is read. Blocks.

        Raises:
            ResponseUnusable: it is none.
            ProcessFailed: the process ended, and it is not to blame.
        """
        with self._turn:
            self._started()

    def stream(self, prompt: str, tools: Sequence[Mapping[str, Any]]) -> "Stream":
        """What reads one answer by the template.

        Args:
            prompt: all of its text.
            tools: those that may be called, as a chat template gets them.
        """
        number = next(self._numbers)
        made = Stream(self, number, prompt, tools)
        weakref.finalize(made, self._ended.append, number).atexit = False
        return made

    def read(self, text: str) -> Any:
        """What the schema finds in a whole answer. Blocks.

        Raises:
            AnswerMismatch: the answer is not what the schema describes.
            ResponseTemplateFailed: it exceeds its limits.
            ProcessFailed: as `start`.
        """
        with self._turn:
            return self._ask(self._running(), {"text": text})["message"]

    def piece(
        self, request: Mapping[str, Any], again: Callable[[], Mapping[str, Any]], n_started: int
    ) -> tuple[dict[str, Any], int]:
        """What became of a piece of an answer, and how often the process has been started. Blocks.

        Args:
            again: what a process is told that does not know this answer.
            n_started: how often the process had been started when it was told of the answer.

        Raises:
            AnswerMismatch, ResponseTemplateFailed, ProcessFailed: as `read`.
        """
        with self._turn:
            process = self._running()
            ended = [self._ended.popleft() for _ in range(len(self._ended))]
            known = self._n_started == n_started
            reply = self._ask(process, {**request, "ended": ended, **({} if known else again())})
            return reply, self._n_started

    def _running(self) -> ConfinedProcess:
        try:
            return self._started()
        except ResponseUnusable as error:
            # it was usable when the service began
            raise process_failed(_WORKER, f"could not be started again ({error})") from error

    def _started(self) -> ConfinedProcess:
        if self._process is not None and self._process.lives:
            return self._process
        self._process = ConfinedProcess(
            _WORKER,
            [str(MEMORY_BYTES), str(self._cpu_seconds), str(self._answer_seconds)],
            (huggingface_hub, numpy, regex, transformers, splitlearn_client),
            cpu_seconds=self._cpu_seconds,
            wall_seconds=self._wall_seconds,
        )
        self._n_started += 1
        try:
            reply = self._process.ask({self._kind: json.loads(self._source)}, _LONGEST_REPLY)
        except LimitExceeded as error:
            raise ResponseUnusable(str(error)) from None
        if reply:
            self._process = None
            raise ResponseUnusable(str(reply.get("mismatch") or reply["error"]))
        return self._process

    def _ask(self, process: ConfinedProcess, request: Mapping[str, Any]) -> dict[str, Any]:
        try:
            reply = process.ask(request, _LONGEST_REPLY)
        except ResultTooDeep as error:
            reply = {"mismatch": str(error)}
        except LimitExceeded as error:
            reply = {"error": str(error)}
        if "mismatch" in reply:
            raise AnswerMismatch(str(reply["mismatch"]))
        if "error" in reply:
            raise ResponseTemplateFailed(
                f"the response {self._kind} of this model's tokenizer cannot read this answer: {reply['error']}; "
                "correct it, or serve the model with --tool-call-parser or --reasoning-parser, which leave it out"
            )
        return reply


class Stream:
    """Reads one answer as it comes; see `ResponseStream`. It knows all of it, for a process that does not."""

    def __init__(self, process: ResponseProcess, number: int, prompt: str, tools: Sequence[Mapping[str, Any]]) -> None:
        self.region = ""
        self._process = process
        self._number = number
        self._prompt, self._tools = prompt, list(tools)
        self._fed = list[str]()
        self._n_started = 0

    def feed(self, text: str) -> list[dict[str, Any]]:
        return self._events(text, is_last=False)

    def finish(self) -> list[dict[str, Any]]:
        return self._events("", is_last=True)

    def _events(self, text: str, *, is_last: bool) -> list[dict[str, Any]]:
        request = {"answer": self._number, "text": text, "is_last": is_last}
        reply, self._n_started = self._process.piece(request, self._again, self._n_started)
        if not self._fed:
            self.region = reply.get("region", self.region)
        self._fed.append(text)
        return list(reply["events"])

    def _again(self) -> dict[str, Any]:
        return {"prompt": self._prompt, "tools": self._tools, "before": self._fed}
