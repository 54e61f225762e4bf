"""The process that takes answers apart by what comes with a tokenizer: a response template, or a response schema.

Both have regular expressions, which are untrusted and run on what a model says. `response_process` starts this as a
script. It imports transformers, whose parser reads templates, and what limits its time and memory (`confined_worker`).
"""

import sys
import time
import unicodedata  # noqa: F401
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

# there is no site-packages: the parent passes where the packages are
sys.path += sys.argv[4:]

# transformers' types are those of its tokenizers; regex imports unicodedata when it needs it, and then no file can be
# opened
from transformers import PreTrainedTokenizerBase

from splitlearn_client.confined_worker import TOO_MUCH_MEMORY, confine, limit_time, serve, shortened
from splitlearn_client.parsing.response_schema import ResponseSchema, SchemaMismatch

_CALLS = "tool_calls"


@dataclass
class _Answer:
    """One answer: transformers' parser of it, and how much processor time that took."""

    parser: Any
    seconds: float = 0.0


@dataclass
class Answers:
    """The answers that are being taken apart. The first request has the template or the schema.

    Attributes:
        piece_seconds: the most processor time of one piece of an answer.
        answer_seconds: the most of one answer.
    """

    piece_seconds: float
    answer_seconds: float
    _tokenizer: PreTrainedTokenizerBase | None = None
    _schema: ResponseSchema | None = None
    _open: dict[int, _Answer] = field(default_factory=dict)

    def answer_to(self, request: dict[str, Any]) -> dict[str, Any]:
        """What was found, or why nothing can be: no error of a template ends this process."""
        try:
            if "template" in request:
                self._tokenizer = PreTrainedTokenizerBase(response_template=request["template"])
                self._tokenizer.get_response_parser(prefix="")
                return {}
            if "schema" in request:
                self._schema = ResponseSchema(request["schema"])
                return {}
            return self._whole(request["text"]) if self._schema is not None else self._piece(request)
        except MemoryError:
            # its state may be half of what it was
            self._open.pop(request.get("answer", -1), None)
            return {"error": TOO_MUCH_MEMORY}
        except Exception as error:  # noqa: BLE001 (a template may raise whatever Python can)
            return {"mismatch": shortened(f"{type(error).__name__}: {error}")}

    def _whole(self, text: str) -> dict[str, Any]:
        try:
            return {"message": self._schema.read(text)}  # type: ignore[union-attr]
        except SchemaMismatch as error:
            return {"mismatch": shortened(str(error))}

    def _piece(self, request: Mapping[str, Any]) -> dict[str, Any]:
        for ended in request["ended"]:
            self._open.pop(ended, None)
        began, number, reply = time.process_time(), request["answer"], {}
        if "prompt" in request:
            parser = self._tokenizer.get_response_parser(  # type: ignore[union-attr]
                prefix=request["prompt"], tools=request["tools"]
            )
            reply["region"] = next((each["field"] for each in reversed(parser.initial_events) if "field" in each), "")
            for each in request["before"]:
                parser.feed(each)
                # as when they came one by one: nobody is to blame for what all of them take
                limit_time(self.piece_seconds)
            self._open[number] = _Answer(parser)
        answer = self._open[number]
        events = answer.parser.feed(request["text"])
        if request["is_last"]:
            events += answer.parser.finalize()[1]
        answer.seconds += time.process_time() - began
        if answer.seconds > self.answer_seconds:
            del self._open[number]
            return {"error": f"it ran for more than {self.answer_seconds:g} s in all"}
        return reply | {"events": list(_told(events))}


def _told(events: Iterable[Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    """The events, with the values of calls alone: others are their texts again."""
    for each in events:
        names = ("type", "field", "text") if each["field"] != _CALLS else ("type", "field", "text", "value")
        yield {name: each[name] for name in names if name in each}


if __name__ == "__main__":
    answers = Answers(float(sys.argv[2]), float(sys.argv[3]))
    confine(int(sys.argv[1]))
    serve(answers.answer_to, answers.piece_seconds)
