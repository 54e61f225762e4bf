"""Replies in OpenAI's shapes, for both kinds of completion, whole or streamed."""

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from client_service.generation import Piece
from client_service.report import Report
from client_service.sampling import Choice

Json = dict[str, Any]


@dataclass(frozen=True)
class ReplyShape:
    """How one answer's pieces become JSON. `chat` decides between the two kinds, `index` counts answers."""

    chat: bool
    model: str
    token_text: Callable[[int], str]
    index: int = 0
    created: int = field(default_factory=lambda: int(time.time()))
    identity: str = field(default_factory=lambda: uuid.uuid4().hex)

    def chunk(self, piece: Piece, report: Report, *, first: bool) -> Json:
        """One event of a stream; the last piece's also says where time and bytes went."""
        logprobs = self._logprobs([piece.choice] if piece.choice else [])
        choice: Json = {"index": self.index, "finish_reason": piece.finish_reason, "logprobs": logprobs}
        if self.chat:
            choice["delta"] = ({"role": "assistant"} if first else {}) | {"content": piece.text}
        else:
            choice["text"] = piece.text
        body = self._envelope(".chunk" if self.chat else "", [choice])
        return body | {"splitlearn": measurements(report)} if piece.finish_reason else body

    def usage_chunk(self, report: Report) -> Json:
        """The event after the last piece, for those who asked for usage."""
        return self._envelope(".chunk" if self.chat else "", []) | {"usage": usage(report)}

    def whole(self, pieces: Sequence[Piece], report: Report) -> Json:
        """The reply to a request without streaming."""
        text = "".join(piece.text for piece in pieces)
        logprobs = self._logprobs([piece.choice for piece in pieces if piece.choice])
        choice: Json = {"index": self.index, "finish_reason": pieces[-1].finish_reason, "logprobs": logprobs}
        if self.chat:
            choice["message"] = {"role": "assistant", "content": text}
        else:
            choice["text"] = text
        body = self._envelope("", [choice])
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

    def _logprobs(self, choices: list[Choice]) -> Json | None:
        choices = [choice for choice in choices if choice.logprob is not None]
        if not choices:
            return None
        if self.chat:
            return {"content": [self._chat_logprob(choice) for choice in choices], "refusal": None}
        texts = [self.token_text(choice.token) for choice in choices]
        offsets = [sum(map(len, texts[:i])) for i in range(len(texts))]
        return {
            "tokens": texts,
            "token_logprobs": [choice.logprob for choice in choices],
            "top_logprobs": [self._alternatives(choice) for choice in choices],
            "text_offset": offsets,
        }

    def _alternatives(self, choice: Choice) -> dict[str, float]:
        tops: dict[str, float] = {}
        for token, value in choice.alternatives:
            # most likely first: it stands for those that look the same, such as pieces of characters
            tops.setdefault(self.token_text(token), value)
        return tops

    def _chat_logprob(self, choice: Choice) -> Json:
        return self._token(choice.token, choice.logprob) | {
            "top_logprobs": [self._token(token, value) for token, value in choice.alternatives]
        }

    def _token(self, token: int, logprob: float | None) -> Json:
        text = self.token_text(token)
        # a piece of a character has no text of its own, and its bytes are not known here
        known = "\N{REPLACEMENT CHARACTER}" not in text
        return {"token": text, "logprob": logprob, "bytes": list(text.encode()) if known else None}


def usage(report: Report) -> Json:
    """Token counts as OpenAI reports them."""
    return {
        "prompt_tokens": report.prompt_tokens,
        "completion_tokens": report.completion_tokens,
        "total_tokens": report.prompt_tokens + report.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": report.reused_tokens},
    }


def measurements(report: Report) -> Json:
    """This service's own addition: speed, bytes on the wire, and the seconds spent in each station."""
    return {
        "completion_tokens": report.completion_tokens,
        "time_to_first_token_seconds": report.time_to_first_token,
        "tokens_per_second": report.tokens_per_second,
        "wire_bytes_sent": report.wire_bytes_sent,
        "wire_bytes_received": report.wire_bytes_received,
        "replays": report.replays,
        "seconds": report.split,
    }
