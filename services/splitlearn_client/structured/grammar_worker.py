"""The process that tries grammars before the service compiles them: callers write them, and some overflow a stack.

`grammar_trial` starts it as a script. It imports llguidance, and of this package what rewrites schemas. The kernel
limits its time, memory and stack. Requests and replies are JSON, each after its length in 8 bytes.
"""

import json
import resource
import signal
import sys
from typing import Any, BinaryIO

# there is no site-packages: the parent passes where the two packages are
sys.path += sys.argv[6:]

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper, grammar_from

from splitlearn_client.structured.answer_source import assembled, joined
from splitlearn_client.structured.schema import UnsupportedSchema, rewritten

_LONGEST_REASON = 500


class _Bytes:
    """A vocabulary of all bytes, and an end."""

    eos_token_id = 256
    bos_token_id = None
    tokens = [bytes([value]) for value in range(256)] + [b"<end>"]
    special_token_ids = [256]  # noqa: RUF012

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


Reply = dict[str, str | list[str]]


def answer_to(request: dict[str, Any], tokenizer: LLTokenizer, limits: LLParserLimits, longest: int) -> Reply:
    """The grammar as llguidance takes it, or the reason why it cannot be used, with the place in a schema.

    In an answer it is the place in the request.
    """
    kind, source = request["kind"], request["source"]
    place = list[str]()
    try:
        if kind == "answer":
            answer = assembled(source)
            # what the answer has to follow is tried by itself, so they are to blame for what is wrong with the whole
            place = list(answer.place)
            tried, used = (grammar_from("grammar", each) for each in (answer.tried, answer.used))
            if answer.constraint is not None:
                inner_kind, inner_source, param = answer.constraint
                inner = answer_to({"kind": inner_kind, "source": inner_source}, tokenizer, limits, longest)
                if "error" in inner:
                    return {**inner, "path": [param, *inner.get("path", ())]}
                tried, used = (joined(rules, str(inner["grammar"])) for rules in (tried, used))
        else:
            if kind == "json_schema":
                source = json.dumps(rewritten(json.loads(source)))
            tried = used = grammar_from(kind, source)
    except UnsupportedSchema as error:
        return {"error": _shortened(str(error)), "path": list(error.path)}
    except (ValueError, RecursionError, IndexError) as error:
        return {"error": _shortened(str(error) or type(error).__name__), "path": place}
    except MemoryError:
        return {"error": "it needs too much memory", "path": place}
    if len(used) > longest:
        return {"error": f"written out it has more than {longest} characters", "path": place}
    matcher = LLMatcher(tokenizer, tried, log_level=0, limits=limits)
    if matcher.is_error():
        return {"error": _shortened(matcher.get_error()), "path": place}
    allowed = matcher.compute_bitmask()
    if matcher.is_error() or not any(allowed):
        return {"error": "no text follows it", "path": place}
    return {"grammar": used}


def _shortened(reason: str) -> str:
    return " ".join(reason.removesuffix("<non-verbose/>")[:_LONGEST_REASON].split())


def serve(requests: BinaryIO, replies: BinaryIO, cpu_seconds: float, limits: LLParserLimits, longest: int) -> None:
    """Answers requests until there are no more."""
    tokenizer = LLTokenizer(TokenizerWrapper(_Bytes()), slices=[])
    while header := requests.read(8):
        request = json.loads(requests.read(int.from_bytes(header)))
        # nothing handles its signal, so it kills the process even inside a compiled function
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        body = json.dumps(answer_to(request, tokenizer, limits, longest)).encode()
        signal.setitimer(signal.ITIMER_PROF, 0)
        replies.write(len(body).to_bytes(8) + body)
        replies.flush()


def _confine(memory_bytes: int, stack_bytes: int) -> None:
    for limit, value in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_STACK, stack_bytes),
        (resource.RLIMIT_NOFILE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))


if __name__ == "__main__":
    # Ctrl-C ends the service, and that ends this process
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _confine(int(sys.argv[1]), int(sys.argv[2]))
    parser_limits = LLParserLimits(**json.loads(sys.argv[4]))
    serve(sys.stdin.buffer, sys.stdout.buffer, float(sys.argv[3]), parser_limits, int(sys.argv[5]))
