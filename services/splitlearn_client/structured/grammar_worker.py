"""The process that tries grammars before the service compiles them: callers write them, and some overflow a stack.

`grammar_trial` starts it as a script. It imports llguidance, and of this package what rewrites schemas and what limits
its time, memory and stack (`confined_worker`).
"""

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

# there is no site-packages: the parent passes where the two packages are
sys.path += sys.argv[6:]

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper, grammar_from

from splitlearn_client.confined_worker import confine, serve, shortened
from splitlearn_client.structured.answer_source import assembled, joined
from splitlearn_client.structured.constraint import Language
from splitlearn_client.structured.reasons import line_of, reason_of
from splitlearn_client.structured.schema import UnsupportedSchema, rewritten


class _Bytes:
    """A vocabulary of all bytes, and an end."""

    eos_token_id = 256
    bos_token_id = None
    tokens = [bytes([value]) for value in range(256)] + [b"<end>"]
    special_token_ids = [256]  # noqa: RUF012

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


class _Refused(Exception):
    """The grammar cannot be used; with the reason, and the place in a schema, or of an answer's part in the request."""

    def __init__(self, reason: str, path: Iterable[str] = ()) -> None:
        super().__init__(shortened(reason))
        self.path = list(path)


@dataclass(frozen=True)
class Trial:
    """Tries grammars with a vocabulary of all bytes; `longest` is the most characters of one written out."""

    tokenizer: LLTokenizer
    limits: LLParserLimits
    longest: int

    def answer_to(self, request: dict[str, Any]) -> dict[str, Any]:
        """The grammar as llguidance takes it, or the reason why it cannot be used, with the place."""
        kind, source = request["kind"], request["source"]
        try:
            return {"grammar": self._answer(source) if kind == "answer" else self._one(kind, source)}
        except _Refused as error:
            return {"error": str(error), "path": error.path}
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 (callers write what it is about, and others' grammars come next)
            return {"error": shortened(_said(error)), "path": []}

    def _one(self, kind: Language, source: str, openers: Iterable[str] = ()) -> str:
        try:
            if kind == "json_schema":
                source = json.dumps(rewritten(json.loads(source)))
            grammar = grammar_from(kind, source)
        except UnsupportedSchema as error:
            raise _Refused(str(error), error.path) from error
        except MemoryError:
            raise
        except Exception as error:
            raise _Refused(_said(error)) from error
        matcher = self._begun(grammar)
        if matcher.is_error():
            raise _Refused(reason_of(matcher.get_error(), is_own=kind == "grammar" and grammar == source))
        for opener in openers:
            spelled = list(opener.encode())
            if matcher.validate_tokens(spelled) == len(spelled):
                raise _Refused(
                    f"a text that follows it may begin with {opener}, as a call of a tool does; exclude that, or send "
                    'tool_choice "none" or "required"'
                )
        return grammar

    def _answer(self, source: str) -> str:
        try:
            answer = assembled(source)
        except UnsupportedSchema as error:
            raise _Refused(str(error), error.path) from error
        tried, used = answer.tried, answer.used
        if answer.constraint is not None:
            kind, inner, param = answer.constraint
            try:
                constrained = self._one(kind, inner, answer.openers)
            except _Refused as error:
                raise _Refused(str(error), (param, *error.path)) from error
            tried, used = (joined(rules, constrained) for rules in (tried, used))
        # what it has to follow was tried by itself, so the schemas are to blame for what is wrong with the whole
        try:
            matcher = self._begun(tried)
        except _Refused as error:
            raise _Refused(str(error), answer.place_at(None)) from error
        if matcher.is_error():
            said = matcher.get_error()
            raise _Refused(reason_of(said), answer.place_at(line_of(said)))
        if len(used) > self.longest:
            raise _Refused(self._too_long, answer.place_at(None))
        return used

    def _begun(self, grammar: str) -> LLMatcher:
        if len(grammar) > self.longest:
            raise _Refused(self._too_long)
        matcher = LLMatcher(self.tokenizer, grammar, log_level=0, limits=self.limits)
        if not matcher.is_error():
            allowed = matcher.compute_bitmask()
            if matcher.is_error() or not any(allowed):
                raise _Refused("no text follows it")
        return matcher

    @property
    def _too_long(self) -> str:
        return f"written out it has more than {self.longest} characters"


def _said(error: Exception) -> str:
    return reason_of(str(error)) or type(error).__name__


if __name__ == "__main__":
    all_bytes = LLTokenizer(TokenizerWrapper(_Bytes()), slices=[])
    trial = Trial(all_bytes, LLParserLimits(**json.loads(sys.argv[4])), int(sys.argv[5]))
    confine(int(sys.argv[1]), STACK=int(sys.argv[2]))
    serve(trial.answer_to, float(sys.argv[3]))
