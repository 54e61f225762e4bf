"""Replies in OpenAI's formats, for chat and plain completions, whole or streamed."""

import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

from splitlearn_client.answer import TokenDelta, TokenLogprob
from splitlearn_client.api.messages import Json, WholeMessage, whole_message
from splitlearn_client.report import Report


@dataclass(frozen=True)
class ReplyShape:
    """Turns one answer's deltas into JSON. `chat` selects the format; `index` is the answer's in the request.

    `prompt_ids` are the prompt's if the reply has ids of tokens; else None.
    """

    chat: bool
    model: str
    index: int = 0
    prompt_ids: Sequence[int] | None = None
    created: int = field(default_factory=lambda: int(time.time()))
    identity: str = field(default_factory=lambda: uuid.uuid4().hex)

    def chunk(self, delta: TokenDelta, said: Json, report: Report, *, first: bool) -> Json:
        """One event of a stream. The last delta's event also has the measurements.

        Args:
            said: what a chat's message has of it.
        """
        logprobs = self._logprobs(delta.logprobs)
        choice: Json = {"index": self.index, "logprobs": logprobs, **_end(delta), **self._token_ids([delta])}
        if self.chat:
            choice["delta"] = ({"role": "assistant"} if first else {}) | said
        else:
            choice["text"] = delta.text
        body = self._envelope(".chunk" if self.chat else "", [choice])
        if first:
            (body if self.chat else choice).update(self._prompt_ids())
        return body | {"splitlearn": measurements(report)} if delta.finish_reason else body

    def usage_chunk(self, report: Report) -> Json:
        """The event after the last delta, if the request wants usage."""
        return self._envelope(".chunk" if self.chat else "", []) | {"usage": usage(report)}

    def whole(self, deltas: Sequence[TokenDelta], report: Report, message: WholeMessage | None = None) -> Json:
        """The reply to a request without streaming. A chat's message is all of the text, unless it was taken apart."""
        logprobs = self._logprobs([entry for delta in deltas for entry in delta.logprobs])
        choice: Json = {"index": self.index, "logprobs": logprobs, **_end(deltas[-1]), **self._token_ids(deltas)}
        if self.chat:
            said, choice["finish_reason"] = message or whole_message(deltas, None)
            choice["message"] = {"role": "assistant", **said}
        else:
            choice["text"] = "".join(delta.text for delta in deltas)
        body = self._envelope("", [choice])
        # where vLLM has what is of the prompt
        place = body if self.chat else choice
        place.update(self._prompt_ids())
        if (prompt := deltas[0].prompt_logprobs) is not None:
            place["prompt_logprobs"] = _of_prompt(prompt)
        return body | {"usage": usage(report), "splitlearn": measurements(report)}

    def _envelope(self, suffix: str, choices: list[Json]) -> Json:
        kind = "chat.completion" if self.chat else "text_completion"
        return {
            "id": f"{'chatcmpl' if self.chat else 'cmpl'}-{self.identity}",
            "object": kind + suffix,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }

    def _prompt_ids(self) -> Json:
        return {} if self.prompt_ids is None else {"prompt_token_ids": list(self.prompt_ids)}

    def _token_ids(self, deltas: Iterable[TokenDelta]) -> Json:
        return {} if self.prompt_ids is None else {"token_ids": [token for each in deltas for token in each.token_ids]}

    def _logprobs(self, entries: Sequence[TokenLogprob]) -> Json | None:
        if not entries:
            return None
        if self.chat:
            return {"content": [chat_logprob(entry) for entry in entries], "refusal": None}
        return {
            "tokens": [entry.text for entry in entries],
            "token_logprobs": [entry.logprob for entry in entries],
            "top_logprobs": [None if entry.logprob is None else _alternatives(entry) for entry in entries],
            "text_offset": [entry.offset for entry in entries],
        }


def _end(delta: TokenDelta) -> Json:
    """Why the answer ended with this delta; `stop_reason` is vLLM's."""
    reason = {} if delta.stop_reason is None else {"stop_reason": delta.stop_reason}
    return {"finish_reason": delta.finish_reason, **reason}


def _alternatives(entry: TokenLogprob) -> dict[str, float | None]:
    """Log-probabilities by text, the token's own among them. Of alternatives with equal texts all but one get their id
    as key; the token itself keeps its text.
    """
    tops = {entry.text: entry.logprob}
    for other in entry.alternatives:
        if other.token != entry.token:
            tops[f"token_id:{other.token}" if other.text in tops else other.text] = other.logprob
    return tops


def _of_prompt(entries: Sequence[TokenLogprob]) -> list[Json | None]:
    """By id, as in vLLM: the likeliest tokens of each position, and the prompt's own. The first position has none."""
    return [None if entry.logprob is None else _by_id(entry) for entry in entries]


def _by_id(entry: TokenLogprob) -> Json:
    found = {str(entry.token): _ranked(entry.logprob, entry.rank, entry.text)}
    for rank, each in enumerate(entry.alternatives, start=1):
        found.setdefault(str(each.token), _ranked(each.logprob, rank, each.text))
    return found


def _ranked(logprob: float | None, rank: int | None, text: str) -> Json:
    return {"logprob": logprob, "rank": rank, "decoded_token": text}


def chat_logprob(entry: TokenLogprob) -> Json:
    """One token's log-probability in a chat, with the likeliest tokens."""
    tops = [_token(other.text, other.logprob, other.spelled) for other in entry.alternatives]
    return _token(entry.text, entry.logprob, entry.spelled) | {"top_logprobs": tops}


def _token(text: str, logprob: float | None, spelled: Iterable[int] | None) -> Json:
    return {"token": text, "logprob": logprob, "bytes": None if spelled is None else list(spelled)}


def usage(report: Report) -> Json:
    """Token counts in OpenAI's format."""
    return {
        "prompt_tokens": report.prompt_tokens,
        "completion_tokens": report.completion_tokens,
        "total_tokens": report.prompt_tokens + report.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": report.reused_tokens},
    }


def measurements(report: Report) -> Json:
    """Our extension of the format: speed, bytes on the wire, and seconds per stage."""
    return {
        "completion_tokens": report.completion_tokens,
        "time_to_first_token_seconds": report.time_to_first_token,
        "tokens_per_second": report.tokens_per_second,
        "wire_bytes_sent": report.wire_bytes_sent,
        "wire_bytes_received": report.wire_bytes_received,
        "draft_tokens": report.draft_tokens,
        "accepted_draft_tokens": report.accepted_tokens,
        "replays": report.replays,
        "failovers": [asdict(failover) for failover in report.failovers],
        "seconds": report.timings,
    }
